"""A stored model: the metadata kept with it, and what is checked before it is built.

No pickle: only the types in `TRUSTED_TYPES` are built, and only where the checksum, the features and the release fit.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import io
import logging
import threading
from typing import Any
from zipfile import BadZipFile

import msgspec
import numpy as np
from msgspec import Struct

from features.definitions import FEATURES
from models.dataset.inputs import INPUTS, INPUTS_NAME, INPUTS_VERSION
from models.dataset.matrix import Floats
from models.training.card import ModelCard
from tocsin.errors import ModelUnavailableError

log = logging.getLogger(__name__)

SCHEMA_VERSION = 2
MODEL, METADATA, REFERENCE = "model.skops", "metadata.json", "reference.npy"
TRAIN_AGAIN = "train again: run `tocsin train`"
# What the candidates are made of beyond the types skops trusts by itself.
TRUSTED_TYPES: tuple[str, ...] = (
    "numpy.dtype",
    "sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor",
)
_encode = msgspec.json.Encoder().encode
# NumPy parses an array's header as Python, and Python 3.11 fails at that in several threads at once (cpython#106905).
_reading_arrays = threading.Lock()
_FEATURES = {feature.name: feature for feature in FEATURES}


class Metadata(Struct, frozen=True, kw_only=True):
    """The contents of `metadata.json`."""

    schema_version: int
    version: str
    model_sha256: str
    feature_schema: str  # a hash of what the inputs mean, in hex
    code_revision: str  # the commit it was made with; `+`: and changes on top
    made_by: str
    card: ModelCard


def read_metadata(content: bytes, version: str) -> Metadata:
    """The metadata kept with a model.

    Raises:
        ModelUnavailableError: it is not readable, or of another release.
    """
    try:
        found = msgspec.json.decode(content, type=dict[str, Any])
        if (schema := found.get("schema_version")) != SCHEMA_VERSION:
            raise ModelUnavailableError(
                f"churn model {version} has metadata of schema {schema}, this release reads {SCHEMA_VERSION}",
                hint=TRAIN_AGAIN,
            )
        return msgspec.json.decode(content, type=Metadata)
    except msgspec.DecodeError as error:
        raise ModelUnavailableError(
            f"metadata of churn model {version} is not readable: {error}", hint=TRAIN_AGAIN
        ) from error


def npy(rows: Floats) -> bytes:
    """An array as bytes, without pickle."""
    file = io.BytesIO()
    np.save(file, rows, allow_pickle=False)
    return file.getvalue()


def read_npy(content: bytes, what: str) -> Floats | None:
    """An array from such bytes; None where they are damaged: it is not needed to serve."""
    try:
        with _reading_arrays:
            found: Floats = np.load(io.BytesIO(content), allow_pickle=False)
    except (ValueError, EOFError, OSError):
        log.warning("%s is not readable", what)
        return None
    return found


def feature_schema(card: ModelCard) -> str:
    """A hash of what a model's inputs mean here: aggregation, window and unit of each, in their order."""
    meaning: list[Any] = [card.feature_view, card.feature_view_version]
    for name in card.feature_names:
        feature = _FEATURES.get(name)
        meaning.append((name, feature.aggregation, feature.window_days, feature.unit) if feature else (name,))
    return hashlib.blake2b(_encode(meaning), digest_size=8).hexdigest()


def build(data: bytes | None, metadata: Metadata) -> Any:
    """The estimator, verified.

    Raises:
        ModelUnavailableError: it is missing or damaged, or holds foreign types.
    """
    version = metadata.version
    if data is None:
        raise ModelUnavailableError(f"{MODEL} of churn model {version} is missing", hint=TRAIN_AGAIN)
    if hashlib.sha256(data).hexdigest() != metadata.model_sha256:
        raise ModelUnavailableError(
            f"{MODEL} of churn model {version} is damaged: its checksum is not the one in {METADATA}",
            hint=TRAIN_AGAIN,
        )
    from skops.io import get_untrusted_types, loads  # noqa: PLC0415 (heavy: only where a model is built)

    try:
        foreign = sorted(set(get_untrusted_types(data=data)) - set(TRUSTED_TYPES))
    except (BadZipFile, KeyError, ValueError) as error:
        raise ModelUnavailableError(
            f"{MODEL} of churn model {version} is no skops file", hint=TRAIN_AGAIN
        ) from error
    if foreign:
        raise ModelUnavailableError(
            f"churn model {version} holds types that are not trusted: {', '.join(foreign)}",
            hint=f"it was not made by `tocsin train`, or by another release; {TRAIN_AGAIN}",
        )
    try:
        with _reading_arrays:
            return loads(data, trusted=list(TRUSTED_TYPES))
    except Exception as error:  # whatever a file of another release makes of ours
        raise ModelUnavailableError(
            f"churn model {version} cannot be built: {type(error).__name__}: {error}", hint=TRAIN_AGAIN
        ) from error


def check_compatible(metadata: Metadata) -> None:
    """Whether a model fits the features that are served, and this scikit-learn.

    Raises:
        ModelUnavailableError: it does not.
    """
    card, version = metadata.card, metadata.version
    found = (card.feature_view, card.feature_view_version, tuple(card.feature_names))
    problem = ""
    if found != (INPUTS_NAME, INPUTS_VERSION, INPUTS):
        problem = (
            f"was trained on {len(found[2])} features of {found[0]} v{found[1]}, "
            f"served are {len(INPUTS)} of {INPUTS_NAME} v{INPUTS_VERSION}"
        )
        differing = sorted(set(found[2]) ^ set(INPUTS))
        if differing:
            problem += f"; in one only: {', '.join(differing)}"
    elif metadata.feature_schema != feature_schema(card):
        problem = "says that its features mean something else than those served"
    elif _minor(card.sklearn_version) != _minor(installed := importlib.metadata.version("scikit-learn")):
        problem = f"was trained with scikit-learn {card.sklearn_version}, this is {installed}"
    if problem:
        raise ModelUnavailableError(f"churn model {version} {problem}", hint=TRAIN_AGAIN)


def _minor(release: str) -> list[str]:
    return release.split(".")[:2]
