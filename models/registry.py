"""Trained models on disk: saved whole or not at all, verified before they are loaded.

    <root>/churn/
        champion                        the promoted version's name, replaced atomically
        20261124T070501Z-ab12cd/        created_at (UTC) and the first digits of the model's sha256
            model.skops                 no pickle: only the types in TRUSTED_TYPES are built
            metadata.json               Metadata

    save ──► .tmp-… ──rename──► version ──promote──► champion ──load──► ChurnModel
                                   └── beyond the newest 20, unless champion ──► deleted

The checksum finds damage, not malice: whoever can write here can write both files. The type list holds against both.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import re
import shutil
import tempfile
from contextlib import suppress
from datetime import UTC
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import msgspec
from msgspec import Struct

from models.card import ModelCard, TrainedModel
from models.churn import ChurnModel, RiskPolicy
from models.inputs import INPUTS, INPUTS_NAME, INPUTS_VERSION
from tocsin.errors import ModelUnavailableError, NotFoundError

SCHEMA_VERSION = 1
KEEP_VERSIONS = 20
# What the candidates are made of beyond the types skops trusts by itself.
TRUSTED_TYPES: tuple[str, ...] = (
    "numpy.dtype",
    "sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor",
)

_MODEL, _METADATA, _CHAMPION, _TEMPORARY = "model.skops", "metadata.json", "champion", ".tmp-"
_VERSION = re.compile(r"\d{8}T\d{6}Z-[0-9a-f]{6}")
_ABANDONED_S = 3_600.0
_TRAIN = "run `tocsin train`"
_TRAIN_AGAIN = "train again: run `tocsin train`"


class Metadata(Struct, frozen=True, kw_only=True):
    """The contents of `metadata.json`."""

    schema_version: int
    version: str
    model_sha256: str
    card: ModelCard


class Registry:
    """The churn models under one folder.

    Args:
        root: Created on the first save.
        policy: Risk bands of the models it loads.
    """

    def __init__(self, root: Path, policy: RiskPolicy | None = None) -> None:
        self._folder = root / "churn"
        self._policy = policy

    def save(self, trained: TrainedModel) -> str:
        """Store a model and return its version; `trained.card.created_at` dates it. Does not promote.

        Old versions are deleted beyond the newest 20, the champion never.
        """
        from skops.io import dump  # noqa: PLC0415 (heavy: a reader of pointers and cards needs none of it)

        self._folder.mkdir(parents=True, exist_ok=True)
        self._sweep(trained.card.created_at.timestamp())
        temporary = Path(tempfile.mkdtemp(prefix=_TEMPORARY, dir=self._folder))
        try:
            dump(trained.estimator, temporary / _MODEL)
            digest = _sha256(temporary / _MODEL)
            version = f"{trained.card.created_at.astimezone(UTC):%Y%m%dT%H%M%SZ}-{digest[:6]}"
            metadata = Metadata(
                schema_version=SCHEMA_VERSION, version=version, model_sha256=digest, card=trained.card
            )
            (temporary / _METADATA).write_bytes(msgspec.json.format(msgspec.json.encode(metadata), indent=2))
            temporary.chmod(0o755)  # mkdtemp makes it private to the trainer; servers may run as others
            if not (self._folder / version).exists():
                temporary.rename(self._folder / version)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        self._retain()
        return version

    def versions(self) -> list[str]:
        """All stored versions, oldest first."""
        if not self._folder.is_dir():
            return []
        return sorted(path.name for path in self._folder.iterdir() if _VERSION.fullmatch(path.name))

    def champion(self) -> str | None:
        """The promoted version, None before the first promotion."""
        with suppress(FileNotFoundError):
            named = (self._folder / _CHAMPION).read_text(encoding="ascii", errors="replace").strip()
            return named if _VERSION.fullmatch(named) else None
        return None

    def promote(self, version: str) -> None:
        """Make a stored version the champion. A reader sees the old one or the new one, never neither.

        Raises:
            NotFoundError: No such version.
        """
        if version not in self.versions():
            stored = ", ".join(self.versions()) or "none"
            raise NotFoundError(f"there is no churn model {version!r}", hint=f"stored: {stored}")
        temporary = self._folder / f"{_TEMPORARY}{_CHAMPION}-{version}"
        temporary.write_text(f"{version}\n", encoding="ascii")
        temporary.replace(self._folder / _CHAMPION)

    def metadata(self, version: str) -> Metadata:
        """What is known about a stored version, without loading it.

        Raises:
            ModelUnavailableError: It is missing or not readable.
        """
        if not _VERSION.fullmatch(version):
            raise ModelUnavailableError(f"{version!r} is no model version", hint=_TRAIN_AGAIN)
        try:
            content = (self._folder / version / _METADATA).read_bytes()
            return msgspec.json.decode(content, type=Metadata)
        except FileNotFoundError as error:
            raise ModelUnavailableError(f"churn model {version} is not stored", hint=_TRAIN_AGAIN) from error
        except msgspec.DecodeError as error:
            raise ModelUnavailableError(
                f"metadata of churn model {version} is not readable: {error}", hint=_TRAIN_AGAIN
            ) from error

    def load(self, version: str | None = None) -> ChurnModel:
        """The champion, or the version named, verified.

        Raises:
            ModelUnavailableError: None is promoted; files are missing or damaged; the model holds foreign types, or
                was trained on other features or with another scikit-learn.
        """
        version = version or self.champion()
        if version is None:
            raise self._none_promoted()
        metadata = self.metadata(version)
        _check_compatible(metadata)
        return ChurnModel(self._estimator(metadata), metadata.card, version, self._policy)

    def _estimator(self, metadata: Metadata) -> Any:
        version = metadata.version
        try:
            data = (self._folder / version / _MODEL).read_bytes()
        except FileNotFoundError as error:
            raise ModelUnavailableError(
                f"{_MODEL} of churn model {version} is missing", hint=_TRAIN_AGAIN
            ) from error
        if hashlib.sha256(data).hexdigest() != metadata.model_sha256:
            raise ModelUnavailableError(
                f"{_MODEL} of churn model {version} is damaged: its checksum is not the one in {_METADATA}",
                hint=_TRAIN_AGAIN,
            )
        return _build(data, version)

    def _none_promoted(self) -> ModelUnavailableError:
        stored = self.versions()
        if not stored:
            return ModelUnavailableError("there is no model yet", hint=_TRAIN)
        return ModelUnavailableError(
            f"no model is promoted ({len(stored)} stored)",
            hint=f"promote one; the newest is {stored[-1]}",
        )

    def _retain(self) -> None:
        champion = self.champion()
        for version in self.versions()[:-KEEP_VERSIONS]:
            if version != champion:
                # Renamed first, so that no reader meets half a version.
                doomed = self._folder / f"{_TEMPORARY}{version}"
                with suppress(FileNotFoundError):
                    (self._folder / version).rename(doomed)
                shutil.rmtree(doomed, ignore_errors=True)

    def _sweep(self, now: float) -> None:
        """Remove what a killed process left behind."""
        for path in self._folder.glob(f"{_TEMPORARY}*"):
            with suppress(FileNotFoundError):
                if now - path.stat().st_mtime > _ABANDONED_S and path.is_dir():
                    shutil.rmtree(path, ignore_errors=True)


def _build(data: bytes, version: str) -> Any:
    from skops.io import get_untrusted_types, loads  # noqa: PLC0415 (heavy: only where a model is built)

    try:
        foreign = sorted(set(get_untrusted_types(data=data)) - set(TRUSTED_TYPES))
    except (BadZipFile, KeyError, ValueError) as error:
        raise ModelUnavailableError(
            f"{_MODEL} of churn model {version} is no skops file", hint=_TRAIN_AGAIN
        ) from error
    if foreign:
        raise ModelUnavailableError(
            f"churn model {version} holds types that are not trusted: {', '.join(foreign)}",
            hint=f"it was not made by `tocsin train`, or by another release; {_TRAIN_AGAIN}",
        )
    return loads(data, trusted=list(TRUSTED_TYPES))


def _check_compatible(metadata: Metadata) -> None:
    card, version = metadata.card, metadata.version
    found = (card.feature_view, card.feature_view_version, tuple(card.feature_names))
    problem = ""
    if metadata.schema_version != SCHEMA_VERSION:
        problem = f"has metadata of schema {metadata.schema_version}, this release reads {SCHEMA_VERSION}"
    elif found != (INPUTS_NAME, INPUTS_VERSION, INPUTS):
        problem = (
            f"was trained on {len(found[2])} features of {found[0]} v{found[1]}, "
            f"served are {len(INPUTS)} of {INPUTS_NAME} v{INPUTS_VERSION}"
        )
        differing = sorted(set(found[2]) ^ set(INPUTS))
        if differing:
            problem += f"; in one only: {', '.join(differing)}"
    elif _minor(card.sklearn_version) != _minor(installed := importlib.metadata.version("scikit-learn")):
        problem = f"was trained with scikit-learn {card.sklearn_version}, this is {installed}"
    if problem:
        raise ModelUnavailableError(f"churn model {version} {problem}", hint=_TRAIN_AGAIN)


def _minor(release: str) -> list[str]:
    return release.split(".")[:2]


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
