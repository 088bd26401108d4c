"""Trained models and what became of them: nothing is changed, everything is written down.

    <root>/churn/
        journal.jsonl                   who did what when, and who had which part after it: one line each, on the disk
        20261124T070501Z-ab12cd/        created_at (UTC) and the first digits of the model's sha256
            model.skops                 no pickle: only listed types are built
            metadata.json               Metadata
            reference.npy               test rows a rollout is held against, where training gave some

    save ──► version, "register" ──► begin ──► advance … ──► champion ──► load ──► ChurnModel
                └── beyond the newest 20, unless it has a part or ever was champion ──► "retire", deleted

The journal is the truth: champion, previous and challenger are what its last entry says, so they move together or not
at all, and what served at a moment is the last entry before it. Each entry is appended only on top of the one its
writer decided from (`models.registry.artefacts`); of two at once one decides again.

The checksum finds damage, not malice: anyone who can write here can write both files. The type list holds against both.

Long because each step of a rollout and its line in the journal are one transaction on one state.
"""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from models.dataset.matrix import Floats
from models.evaluation.expected_difference import ExpectedDifference, expect, sample
from models.evaluation.leakage import Finding, blocking
from models.prediction.churn import ChurnModel, RiskPolicy
from models.registry import lineup as rollout
from models.registry.artefacts import ArtefactStore, open_store
from models.registry.journal import Action, Head, JournalEntry, entry_of, whole
from models.registry.lineup import Lineup, RolloutPolicy
from models.registry.model_files import (
    METADATA,
    MODEL,
    REFERENCE,
    SCHEMA_VERSION,
    TRAIN_AGAIN,
    Metadata,
    build,
    check_compatible,
    feature_schema,
    npy,
    read_metadata,
    read_npy,
)
from models.registry.provenance import code_revision, whoami
from models.training.card import TrainedModel
from tocsin.clock import Clock, SystemClock, to_datetime
from tocsin.errors import ConflictError, ModelUnavailableError, NotFoundError

log = logging.getLogger(__name__)

KEEP_VERSIONS = 20
APPEND_TRIES = 20
_VERSION = re.compile(r"\d{8}T\d{6}Z-[0-9a-f]{6}")
_TRAIN = "run `tocsin train`"
_encode = msgspec.json.Encoder().encode

Decide = Callable[[Lineup], Lineup]


class Registry:
    """The churn models under one location.

    Args:
        root: A folder, or the URI of an object store (`s3://bucket/models`).
        policy: Risk bands of the models it loads.
        clock: Dates the journal.
        actor: Who is at work, for the journal; empty: the user and machine.
    """

    def __init__(
        self,
        root: Path | str,
        policy: RiskPolicy | None = None,
        *,
        clock: Clock | None = None,
        actor: str = "",
    ) -> None:
        self._store: ArtefactStore = open_store(root, "churn")
        self._policy = policy
        self._clock = clock or SystemClock()
        self._actor = actor
        self._head = Head()

    # ------------------------------------------------------------------ models

    def save(self, trained: TrainedModel, *, reason: str = "") -> str:
        """Store a model and return its version; `trained.card.created_at` dates it.

        It is the challenger from now on, unless one is being tried, and serves nobody yet. Old versions are deleted
        beyond the newest 20; one that has a part or ever was champion is not.
        """
        from skops.io import dumps  # noqa: PLC0415 (heavy: a reader of the journal and cards needs none of it)

        model = dumps(trained.estimator)
        digest = hashlib.sha256(model).hexdigest()
        version = f"{trained.card.created_at.astimezone(UTC):%Y%m%dT%H%M%SZ}-{digest[:6]}"
        metadata = Metadata(
            schema_version=SCHEMA_VERSION,
            version=version,
            model_sha256=digest,
            feature_schema=feature_schema(trained.card),
            code_revision=code_revision(),
            made_by=self._who,
            card=trained.card,
        )
        said = msgspec.json.format(_encode(metadata), indent=2)
        files = {MODEL: model, METADATA: said}
        if trained.reference is not None:
            files[REFERENCE] = npy(sample(trained.reference))
        self._store.write_folder(version, files)
        self._record(
            Action.REGISTER, version, lambda lineup: rollout.register(lineup, version), reason=reason
        )
        self._retire_old()
        return version

    def versions(self) -> list[str]:
        """All stored versions, oldest first."""
        return [name for name in self._store.folders() if _VERSION.fullmatch(name)]

    def metadata(self, version: str) -> Metadata:
        """What is known about a stored version, without loading it.

        Raises:
            ModelUnavailableError: It is missing or not readable.
        """
        if not _VERSION.fullmatch(version):
            raise ModelUnavailableError(f"{version!r} is no model version", hint=TRAIN_AGAIN)
        content = self._store.read(f"{version}/{METADATA}")
        if content is None:
            raise ModelUnavailableError(f"churn model {version} is not stored", hint=TRAIN_AGAIN)
        return read_metadata(content, version)

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
        check_compatible(metadata)
        estimator = build(self._store.read(f"{version}/{MODEL}"), metadata)
        return ChurnModel(estimator, metadata.card, version, self._policy)

    # ------------------------------------------------------------------ who has which part

    def head(self) -> Head:
        """The journal's end, read again."""
        if (found := self._store.last(self._head.number)) is not None:
            number, line = found
            if number < self._head.number:
                log.warning(
                    "the journal has %d entries and had %d: it was replaced", number, self._head.number
                )
            self._head = Head(number, entry_of(number, line).lineup)
        return self._head

    def champion(self) -> str | None:
        """The promoted version, None before the first promotion."""
        return self.head().lineup.champion or None

    def journal(self) -> list[JournalEntry]:
        """Everything that was ever done, in order.

        Raises:
            ModelUnavailableError: a line is damaged, missing or too many. What serves is in the last line alone, so
                that goes on.
        """
        return whole(self._store.entries())

    def at(self, moment: datetime) -> JournalEntry | None:
        """The last entry up to a moment: its lineup served then. None: nothing did."""
        return next((entry for entry in reversed(self.journal()) if entry.at <= moment), None)

    def begin(
        self,
        version: str | None = None,
        policy: RolloutPolicy | None = None,
        *,
        reason: str = "",
        findings: Iterable[Finding] = (),
    ) -> JournalEntry:
        """Try a version, or the challenger, alongside the champion: first in shadow.

        Args:
            version: Which.
            policy: How fast.
            reason: Why.
            findings: What the leakage gate found beyond the training's own
                (`models.evaluation.leakage.train_serve_skew`).

        Raises:
            NotFoundError: No such version.
            ConflictError: another one is being tried, it is the champion, or the leakage gate blocks it.
            ModelUnavailableError: it cannot be loaded.
        """
        tried = version or self.head().lineup.challenger
        return self._put(Action.BEGIN, rollout.begin, tried, policy, reason, findings)

    def promote(
        self,
        version: str,
        policy: RolloutPolicy | None = None,
        *,
        reason: str = "",
        findings: Iterable[Finding] = (),
    ) -> JournalEntry:
        """Make a stored version the champion at once. A reader sees the old one or the new one, never neither.

        Args:
            version: Which.
            policy: How long it is watched.
            reason: Why.
            findings: As for `begin`.

        Raises:
            NotFoundError: No such version.
            ConflictError: another one is being tried, it is the champion, or the leakage gate blocks it.
            ModelUnavailableError: it cannot be loaded.
        """
        return self._put(Action.PROMOTE, rollout.promote, version, policy, reason, findings)

    def check_gate(self, version: str, findings: Iterable[Finding]) -> dict[str, Any]:
        """What the leakage gate says of a version that is to be put before people, for the journal.

        Raises:
            ConflictError: the gate blocks it.
            ModelUnavailableError: it cannot be loaded, so it could not serve.
        """
        self.load(version)
        found = [*self.metadata(version).card.findings, *findings]
        if blocked := [finding.text for finding in blocking(found)]:
            raise ConflictError(f"the leakage gate blocks {version}: {'; '.join(blocked)}")
        return {"gate": {finding.name: finding.text for finding in found}}

    def advance(
        self, *, on: int | None = None, reason: str = "", story: Mapping[str, Any] | None = None
    ) -> JournalEntry:
        """The next stage of the rollout that is under way.

        Args:
            on: Only while this is the number of the last entry.
            reason: Why.
            story: What was measured.

        Raises:
            ConflictError: none is under way, or something else happened meanwhile.
        """
        return self._record(
            Action.ADVANCE,
            self.head().lineup.judged,
            lambda lineup: rollout.advance(lineup, self._clock.now()),
            on=on,
            reason=reason,
            story=story,
        )

    def roll_back(
        self,
        version: str = "",
        *,
        on: int | None = None,
        reason: str = "",
        story: Mapping[str, Any] | None = None,
    ) -> JournalEntry:
        """Withdraw the challenger being tried; where none is, the champion before is the champion again.

        Args:
            version: Only if it is this one that goes; empty: whichever goes now, but not another one because somebody
                else was first.
            on: Only while this is the number of the last entry.
            reason: Why.
            story: What was measured.

        Raises:
            ConflictError: there is nothing to go back to, or something else happened meanwhile.
        """
        goes = version or self.head().lineup.goes
        return self._record(
            Action.ROLL_BACK,
            goes,
            lambda lineup: rollout.roll_back(lineup, self._clock.now(), goes),
            on=on,
            reason=reason,
            story=story,
        )

    # ------------------------------------------------------------------ inside

    @property
    def _who(self) -> str:
        return self._actor or whoami()

    def _put(
        self,
        action: Action,
        step: Callable[[Lineup, str, float, RolloutPolicy, ExpectedDifference], Lineup],
        version: str,
        policy: RolloutPolicy | None,
        reason: str,
        findings: Iterable[Finding],
    ) -> JournalEntry:
        """Put a version before people, through the gate, by a step of the rollout."""
        wanted = self.stored(version)
        story = self.check_gate(wanted, findings)
        chosen = policy or RolloutPolicy()
        return self._record(
            action,
            wanted,
            lambda lineup: step(
                lineup, wanted, self._clock.now(), chosen, self._expected(wanted, lineup.champion)
            ),
            reason=reason,
            story=story,
        )

    def _record(
        self,
        action: Action,
        version: str,
        decide: Decide,
        *,
        on: int | None = None,
        reason: str = "",
        story: Mapping[str, Any] | None = None,
    ) -> JournalEntry:
        """Append what `decide` makes of the journal's end; decided again where another writer was first."""
        for _ in range(APPEND_TRIES):
            head = self.head()
            if on is not None and head.number != on:
                raise ConflictError(f"something else happened meanwhile (entry {head.number}, expected {on})")
            entry = JournalEntry(
                number=head.number + 1,
                at=to_datetime(self._clock.now()),
                actor=self._who,
                action=action,
                version=version,
                reason=reason,
                story=dict(story or {}),
                lineup=decide(head.lineup),
            )
            if self._store.append(_encode(entry), after=head.number):
                self._head = Head(entry.number, entry.lineup)
                return entry
        raise ConflictError(f"{APPEND_TRIES} tries to write the journal met other writers", hint="try again")

    def reference(self, version: str) -> Floats | None:
        """The rows a version's rollout is held against, shape `(n, inputs)`; None: none were stored."""
        content = self._store.read(f"{version}/{REFERENCE}")
        return None if content is None else read_npy(content, f"{REFERENCE} of churn model {version}")

    def _expected(self, version: str, champion: str) -> ExpectedDifference:
        """How far a version is known to differ from the champion; nothing where either cannot be loaded."""
        rows = self.reference(version)
        if rows is None or not champion:
            return ExpectedDifference()
        try:
            judged, reference = self.load(version), self.load(champion)
            return expect(judged.probabilities(rows), reference.probabilities(rows), rows, judged.inputs)
        except (ModelUnavailableError, ValueError, ArithmeticError) as error:
            log.warning("nothing is expected of churn model %s: %s", version, error)
            return ExpectedDifference()

    def stored(self, version: str) -> str:
        """The version, if it is stored.

        Raises:
            NotFoundError: it is not.
        """
        stored = self.versions()
        if version not in stored:
            raise NotFoundError(
                f"there is no churn model {version!r}", hint=f"stored: {', '.join(stored) or 'none'}"
            )
        return version

    def _none_promoted(self) -> ModelUnavailableError:
        stored = self.versions()
        if not stored:
            return ModelUnavailableError("there is no model yet", hint=_TRAIN)
        return ModelUnavailableError(
            f"no model is promoted ({len(stored)} stored)", hint=f"promote one; the newest is {stored[-1]}"
        )

    def _retire_old(self) -> None:
        old = self.versions()[:-KEEP_VERSIONS]
        if not old:
            return
        try:
            served = {entry.lineup.champion for entry in self.journal()}
            for version in old:
                if version in served or version in _parts(self.head().lineup):
                    continue
                reason = f"beyond the newest {KEEP_VERSIONS}"
                self._record(Action.RETIRE, version, partial(_without, version), reason=reason)
                self._store.remove(version)
        except (ConflictError, ModelUnavailableError) as error:  # the model is stored; there is time for this
            log.warning("old versions stay for now: %s", error)


def _parts(lineup: Lineup) -> set[str]:
    return {lineup.champion, lineup.previous, lineup.challenger}


def _without(version: str, lineup: Lineup) -> Lineup:
    if version in _parts(lineup):
        raise ConflictError(f"{version} was given a part meanwhile")
    return lineup
