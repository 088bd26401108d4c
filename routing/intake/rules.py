"""The operator's own rules of priority: a TOML file, checked as a whole, followed while the platform runs.

    in force ──file changed, good──► the new rules in force, the change logged
        └────file changed, bad or gone──► the old rules stay in force, the fault logged once

    [[rule]]
    name = "boiler-room"
    lane = "p0"                       # left out: the default rules decide
    types = ["boiler_*"]              # the whole of `type`; * stands for anything
    alert_types = ["pressure_*"]      # the whole of `alert_type`
    words = ["boiler pressure"]       # words one after the other, in either
    severities = ["Severe"]           # of Extreme, Severe, Moderate, Minor, Unknown
    may_lower = true                  # a sender's `priority` may be lower than the rule says

Of what a rule names, each must hold, by any of its values; case and punctuation are aside.
"""

from __future__ import annotations

import fnmatch
import hashlib
import logging
import tomllib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from routing.intake.words import normalise
from tocsin.clock import Clock
from tocsin.errors import ConfigurationError

MAX_RULES = 500
MAX_FILE_BYTES = 262_144
CHECK_EVERY_S = 2.0
HASH_CHARS = 12

log = logging.getLogger(__name__)

Text = Annotated[str, Meta(min_length=1, max_length=128)]
Texts = Annotated[tuple[Text, ...], Meta(max_length=100)]


class OperatorRule(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One rule. Whatever it names must hold; what it leaves out does not matter."""

    name: Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}\Z")]
    lane: Literal["p0", "p1", "p2"] | None = None
    types: Texts = ()
    alert_types: Texts = ()
    words: Texts = ()
    severities: tuple[Literal["Extreme", "Severe", "Moderate", "Minor", "Unknown"], ...] = ()
    may_lower: bool = False

    def matches(self, type_: str, alert_type: str, severity: str) -> bool:
        """Whether everything it names holds."""
        text = normalise(type_) + normalise(alert_type)
        return (
            (not self.types or _any_like(type_, self.types))
            and (not self.alert_types or _any_like(alert_type, self.alert_types))
            and (not self.words or any(normalise(words) in text for words in self.words))
            and (
                not self.severities
                or severity.strip().casefold() in {one.casefold() for one in self.severities}
            )
        )


class _File(msgspec.Struct, forbid_unknown_fields=True):
    rule: Annotated[tuple[OperatorRule, ...], Meta(max_length=MAX_RULES)] = ()


class RuleSet(msgspec.Struct, frozen=True):
    """The rules of a file, with what identifies this version of it."""

    rules: tuple[OperatorRule, ...]
    sha256: str


def first_match(
    rules: Sequence[OperatorRule], type_: str, alert_type: str, severity: str
) -> OperatorRule | None:
    """The first rule that applies; None where none does."""
    return next((rule for rule in rules if rule.matches(type_, alert_type, severity)), None)


def read_rules(path: Path) -> RuleSet:
    """Read and check a file of rules.

    Raises:
        ConfigurationError: names the file, the rule and the field.
    """
    try:
        with path.open("rb") as stream:
            content = stream.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise ConfigurationError(
            f"cannot read the rules in {path}: {error.strerror or error}", hint="check TOCSIN_RULES"
        ) from error
    if len(content) > MAX_FILE_BYTES:
        raise ConfigurationError(
            f"{path} is larger than {MAX_FILE_BYTES // 1024} KiB", hint="check TOCSIN_RULES"
        )
    return RuleSet(parse_rules(content, str(path)), hashlib.sha256(content).hexdigest())


def parse_rules(content: bytes, name: str) -> tuple[OperatorRule, ...]:
    """As `read_rules`, from bytes; `name` stands in the errors.

    Raises:
        ConfigurationError: names the file, the rule and the field.
    """
    try:
        raw = tomllib.loads(content.decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigurationError(
            f"{name} is not TOML: {error}", hint="a rule begins with [[rule]]"
        ) from error
    try:
        rules = msgspec.convert(raw, _File).rule
    except msgspec.ValidationError as error:
        raise ConfigurationError(
            f"{name}: {_placed(str(error), raw)}", hint="`tocsin rules --help` shows a rule with every field"
        ) from None
    names: set[str] = set()
    for rule in rules:
        if rule.name in names:
            raise ConfigurationError(f"{name}: rule {rule.name!r}: `name` is used twice")
        names.add(rule.name)
        _check(rule, name)
    return rules


def _check(rule: OperatorRule, name: str) -> None:
    if not (rule.types or rule.alert_types or rule.words or rule.severities):
        raise ConfigurationError(
            f"{name}: rule {rule.name!r}: it would apply to everything",
            hint='name `types`, `alert_types`, `words` or `severities`; `types = ["*"]` if you mean all',
        )
    if rule.lane is None and not rule.may_lower:
        raise ConfigurationError(
            f"{name}: rule {rule.name!r}: it changes nothing", hint="give it a `lane`, or `may_lower = true`"
        )
    empty = next((words for words in rule.words if not normalise(words).strip()), None)
    if empty is not None:
        raise ConfigurationError(
            f"{name}: rule {rule.name!r}: `words` holds {empty!r}, which has no word in it"
        )


def _placed(message: str, raw: dict[str, object]) -> str:
    """A decoder's message with the name of the rule and the field."""
    detail, _, path = message.partition(" - at `$")
    place = path.rstrip("`").strip(".")
    if not place.startswith("rule["):
        return f"{detail}{f' (at {place})' if place else ''}"
    number, _, field = place.removeprefix("rule[").partition("]")
    rules = raw.get("rule")
    rule = rules[int(number)] if isinstance(rules, list) and number.isdigit() else {}
    called = rule.get("name") if isinstance(rule, dict) else None
    which = (
        f"rule {called!r}"
        if isinstance(called, str)
        else f"rule {int(number) + 1 if number.isdigit() else number}"
    )
    field = field.strip(".")
    return f"{which}: {f'`{field}`: ' if field else ''}{detail}"


def _any_like(value: str, wanted: Sequence[str]) -> bool:
    plain = value.strip().casefold()
    return any(fnmatch.fnmatchcase(plain, pattern.strip().casefold()) for pattern in wanted)


class RuleFile:
    """Follows a file of rules.

    Args:
        path: The file.
        clock: Time; the file is looked at every two seconds at most.
        use: Called with the rules whenever they change.
    """

    def __init__(self, path: Path, clock: Clock, use: Callable[[Sequence[OperatorRule]], None]) -> None:
        self._path = path
        self._clock = clock
        self._use = use
        self._current = read_rules(path)
        self._mark = _mark(path)
        self._looked = clock.monotonic()
        use(self._current.rules)
        log.info("rules: %d in force from %s, sha256 %s", len(self._current.rules), path, self.version)

    @property
    def version(self) -> str:
        """The beginning of the SHA-256 of the file in force."""
        return self._current.sha256[:HASH_CHARS]

    def look(self) -> bool:
        """Take over the file where it changed; returns whether other rules are in force now. Never fails."""
        now = self._clock.monotonic()
        if now - self._looked < CHECK_EVERY_S:
            return False
        self._looked = now
        mark = _mark(self._path)
        if mark == self._mark:
            return False
        self._mark = mark
        try:
            found = read_rules(self._path)
        except ConfigurationError as error:
            log.error("rules: %s; sha256 %s stays in force", error.message, self.version)  # noqa: TRY400
            return False
        if found.sha256 == self._current.sha256:
            return False
        log.warning(
            "rules: %s changed, sha256 %s -> %s: %s",
            self._path,
            self.version,
            found.sha256[:HASH_CHARS],
            changes(self._current.rules, found.rules),
        )
        self._current = found
        self._use(found.rules)
        return True


def changes(before: Sequence[OperatorRule], after: Sequence[OperatorRule]) -> str:
    """What became of each rule, by name."""
    old, new = {rule.name: rule for rule in before}, {rule.name: rule for rule in after}
    kinds = {
        "added": [name for name in new if name not in old],
        "removed": [name for name in old if name not in new],
        "changed": [name for name in new if name in old and new[name] != old[name]],
    }
    kept = [name for name in old if name in new], [name for name in new if name in old]
    said = [f"{kind} {', '.join(names)}" for kind, names in kinds.items() if names]
    return "; ".join([*said, *(["order changed"] if kept[0] != kept[1] else [])]) or "no rule"


def _mark(path: Path) -> tuple[int, int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino
