from __future__ import annotations

import subprocess
import sys

from features.definitions import DAY_S, FEATURE_NAMES, FEATURES, LOOKBACK_DAYS, ON_DEMAND, VIEW_OF, VIEWS
from models.dataset.inputs import INPUTS
from tests.paths import ROOT


def test_every_feature_is_named_once_and_explained() -> None:
    names = [*FEATURE_NAMES, *(found.name for found in ON_DEMAND)]
    assert len(set(names)) == len(names)
    assert all(feature.unit and feature.description for feature in FEATURES)
    assert all(feature.unit and feature.description for feature in ON_DEMAND)


def test_every_view_says_who_owns_it_and_how_old_it_may_be() -> None:
    assert {view.name: view.ttl_s for view in VIEWS} == {"recent_activity": 300.0, "history": 3_600.0}
    for view in VIEWS:
        assert view.owner
        assert view.description
        assert 0 < view.freshness_s < view.ttl_s
        assert DAY_S % view.step_s == 0  # a midnight ends every step


def test_on_demand_features_stand_on_stored_ones() -> None:
    for found in ON_DEMAND:
        assert set(found.stored) <= set(FEATURE_NAMES)
    weeks = ON_DEMAND[0]
    assert weeks.compute({"planned_budget": 50.0, "weekly_spend_mean": 20.0}) == 2.5
    assert weeks.compute({"planned_budget": 50.0, "weekly_spend_mean": 0.0}) is None


def test_the_model_sees_stored_features() -> None:
    assert set(INPUTS) <= set(FEATURE_NAMES)
    assert VIEW_OF["spend_7d"].name == "recent_activity"


def test_the_longest_window_is_the_trend_of_84_days_against_84() -> None:
    assert LOOKBACK_DAYS == 168


def test_the_online_modules_load_no_numerics() -> None:
    code = (
        "import sys, features.definitions, features.importing.event_id, features.importing.records\n"
        "import features.online.packing, features.tiles, features.vectors\n"
        "print(sorted({'pandas', 'pyarrow', 'numpy', 'ray'} & set(sys.modules)))"
    )
    loaded = subprocess.check_output([sys.executable, "-c", code], cwd=ROOT, text=True, timeout=60)
    assert loaded.strip() == "[]"
