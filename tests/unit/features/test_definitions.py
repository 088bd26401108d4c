from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from features.definitions import DAY_S, FEATURE_NAMES, FEATURES, LOOKBACK_DAYS, VIEW_NAME, VIEW_VERSION

ROOT = Path(__file__).parents[3]


def test_every_feature_is_named_once_and_explained() -> None:
    assert len(set(FEATURE_NAMES)) == len(FEATURES) == 15
    for feature in FEATURES:
        assert feature.unit
        assert feature.description
        assert feature.max_age_s >= 8 * DAY_S


def test_the_view_has_a_name_and_a_version() -> None:
    assert (VIEW_NAME, VIEW_VERSION) == ("advertiser_activity", 1)


def test_the_longest_window_is_the_trend_of_84_days_against_84() -> None:
    assert LOOKBACK_DAYS == 168


def test_the_online_modules_load_no_numerics() -> None:
    code = (
        "import sys, features.definitions, features.identity, features.records, features.tiles, features.vectors\n"
        "print(sorted({'pandas', 'pyarrow', 'numpy', 'ray'} & set(sys.modules)))"
    )
    loaded = subprocess.check_output([sys.executable, "-c", code], cwd=ROOT, text=True, timeout=60)
    assert loaded.strip() == "[]"
