"""What the words of a notification mean: a danger, or the same word as a drill, upkeep, an all-clear or commerce.

    words of danger? ──no──► harmless combination (`fire sale`) ──► commercial;  else unknown
        │ yes
        ├── all denied (`no smoke`) ──────────────────────────────► all_clear
        ├── a drill (`fire drill`), and not "not a drill" ─────────► drill
        ├── it ended (`fire extinguished`), and nothing after it ──► all_clear
        ├── a device in need (`smoke detector battery low`) ───────► upkeep
        ├── commerce (`smoke detector sale`) ──────────────────────► commercial
        └── else ─────────────────────────────────────────────────► danger

A word that says it is happening (`detected`, `pressed`, `on fire`) rules out the last three. In doubt it is a danger:
a miss may cost a life, a false alarm costs a look.
"""

from __future__ import annotations

from enum import StrEnum

import msgspec

from routing.intake.clause import Clause, Hit
from routing.intake.vocabulary import Vocabulary
from routing.intake.words import clauses, fold

NEAR = 2  # words between a word that turns and what it turns
SENSED = frozenset({"fire", "gas", "carbon_monoxide", "heat", "security", "water", "emergency", "explosion"})
OWN_DEVICES = frozenset(
    {
        "button",
        "pendant",
        "detector",
        "sensor",
        "wearable",
        "watch",
        "bracelet",
        "fob",
        "transmitter",
        "*melder",
        "*knopf",
    }
    | {
        "*knop",
        "sensor*",
        "czujnik*",
        "boton",
        "bouton",
        "pulsante",
        "przycisk*",
        "ボタン",
        "センサー",
    }
)


class Reading(StrEnum):
    """What the words amount to."""

    DANGER = "danger"
    DRILL = "drill"
    ALL_CLEAR = "all_clear"
    UPKEEP = "upkeep"
    ADVISORY = "advisory"
    COMMERCIAL = "commercial"
    DEVICE = "device"  # a word of the p1 lane
    UNKNOWN = "unknown"


class Meaning(msgspec.Struct, frozen=True):
    """What was read, and the words that decided."""

    reading: Reading = Reading.UNKNOWN
    hazard: str = ""
    word: str = ""  # that named the hazard, or the harmless combination
    because: str = ""  # the word that turned it: `drill`, `sale`, `cleared`
    field: str = ""  # that holds `word`


class Field:
    """One of the texts of a notification: its clauses, and whether it is a drill."""

    def __init__(self, vocabulary: Vocabulary, text: str) -> None:
        self._vocabulary = vocabulary
        raw = clauses(text)
        self.clauses = [Clause(vocabulary, words) for words in raw]
        self.code, self.code_word = self._code([word for words in raw for word in words])
        self.real = False
        self.drill = self._drill()

    @property
    def dangers(self) -> list[Hit]:
        """Every danger that is named."""
        return [hit for clause in self.clauses for hit in clause.dangers]

    def _code(self, raw: list[str]) -> tuple[str, str]:
        """The kind of an alert code in the field, and the code."""
        vocabulary = self._vocabulary
        folded = [fold(word) for word in raw]
        beside = any(word in vocabulary.beside_codes for word in folded)
        mixed = any(not word.isupper() for word in raw)
        for word, plain in zip(raw, folded, strict=True):
            kind = vocabulary.codes.get(word.upper(), "") if plain != "same" else ""
            alone = len(raw) == 1 and (word.isupper() or plain not in vocabulary.code_words)
            if kind and (alone or beside or (word.isupper() and mixed)):
                return kind, word.upper()
        return "", ""

    def _drill(self) -> str:
        """The word that says it is a drill; sets `real` where it says that it is none."""
        if self.code == "drill":
            return self.code_word
        for clause in self.clauses:
            after = clause.turn("not_drill", own=True)
            for hit in clause.turn("drill"):
                near = range(hit.first - NEAR - 1, hit.first + 1)
                if any(clause.negates(i) for i in near if i >= 0) and not self._only_a(clause, hit):
                    self.real = True
                elif not any(set(one.places) & set(near) or hit.first in one.places for one in after):
                    return clause.text(hit)
        return ""

    @staticmethod
    def _only_a(clause: Clause, hit: Hit) -> bool:
        return "only" in clause.words[max(0, hit.first - NEAR - 1) : hit.first]

    def says(self, kind: str) -> str:
        """The first word of a kind anywhere in the field, unless it is denied."""
        for clause in self.clauses:
            for hit in clause.turn(kind):
                if not clause.is_denied(hit.first):
                    return clause.text(hit)
        return ""


def meaning_of(vocabulary: Vocabulary, type_: str, alert_type: str) -> Meaning:
    """What `type` and `alert_type` say together.

    Each is read for itself. Where one names a danger and the other none, a drill, an all-clear or a failing device
    in the other holds for both: `smoke_detector` and `low_battery`, `fire` and `drill`.
    """
    fields = {name: Field(vocabulary, text) for name, text in (("type", type_), ("alert_type", alert_type))}
    drill = next((field.drill for field in fields.values() if field.drill), "")
    if any(field.real for field in fields.values()):
        drill = ""
    first, second = fields.values()
    found = [
        (one, name)
        for (name, field), other in zip(fields.items(), (second, first), strict=True)
        for one in _read(vocabulary, field, other, drill=drill)
    ]
    if not found:
        return Meaning()
    meaning, name = min(found, key=lambda one: _rank(one[0]))
    return msgspec.structs.replace(meaning, field=name) if meaning.word else meaning


def meaning_of_title(vocabulary: Vocabulary, title: str) -> Meaning:
    """What a title says by itself."""
    found = meaning_of(vocabulary, "", title)
    return msgspec.structs.replace(found, field="title") if found.word else found


RANK = {
    Reading.DANGER: 0,
    Reading.DRILL: 1,
    Reading.ALL_CLEAR: 2,
    Reading.UPKEEP: 3,
    Reading.ADVISORY: 4,
    Reading.DEVICE: 5,
    Reading.COMMERCIAL: 6,
    Reading.UNKNOWN: 7,
}


def _rank(one: Meaning) -> float:
    """A drill of nothing dangerous is only a test: it says less than a device does."""
    only_a_test = one.reading is Reading.DRILL and not one.hazard
    return RANK[Reading.DEVICE] + 0.5 if only_a_test else RANK[one.reading]


def _read(vocabulary: Vocabulary, field: Field, other: Field, *, drill: str) -> list[Meaning]:
    meanings = [Meaning(Reading.DRILL, "", field.drill, field.drill)] if field.drill else []
    if field.code == "danger":
        meanings.append(
            Meaning(Reading.DRILL if drill else Reading.DANGER, "weather", field.code_word, drill)
        )
    for clause in field.clauses:
        found = _clause(vocabulary, clause, drill)
        if found.reading is Reading.DANGER:
            found = _beside(field, clause, other, found)
        meanings.append(found)
        if clause.harmless:
            word = clause.text(clause.harmless[0])
            meanings.append(Meaning(Reading.COMMERCIAL, clause.harmless[0].term.group, word, word))
    return meanings


def _clause(vocabulary: Vocabulary, clause: Clause, drill: str) -> Meaning:
    standing = [hit for hit in clause.dangers if hit not in clause.denied]
    if not standing:
        return _without_danger(clause)
    hit = max(standing, key=lambda one: len(one.places))
    if drill:
        return _meaning(Reading.DRILL, clause, hit, drill)
    reading, because = _turned(vocabulary, clause, standing)
    return _meaning(reading, clause, hit, because)


def _without_danger(clause: Clause) -> Meaning:
    if clause.denied:
        return _meaning(Reading.ALL_CLEAR, clause, clause.denied[0], "no")
    if clause.devices:
        return _meaning(Reading.DEVICE, clause, clause.devices[0], "")
    return Meaning()


def _turned(vocabulary: Vocabulary, clause: Clause, standing: list[Hit]) -> tuple[Reading, str]:
    """What the other words of a clause make of its danger, and the word that does; a danger where none does."""
    happening = clause.turn("acute", own=True)
    acute = [one for one in happening if not clause.is_denied(one.first)]
    if happening and not acute:
        return Reading.ALL_CLEAR, "not " + clause.text(happening[0])
    because = _ended(clause, standing, acute)
    if because:
        return Reading.ALL_CLEAR, because
    if not acute:
        turns = {Reading.UPKEEP: _upkeep(clause, standing), Reading.COMMERCIAL: _commerce(clause)}
        if all(one.term.group in vocabulary.mild for one in standing):
            turns[Reading.ADVISORY] = _first(clause, "advisory")
        for reading, word in turns.items():
            if word:
                return reading, word
    return Reading.DANGER, ""


def _meaning(reading: Reading, clause: Clause, hit: Hit, because: str) -> Meaning:
    return Meaning(reading, hit.term.group, clause.text(hit), because)


def _ended(clause: Clause, standing: list[Hit], acute: list[Hit]) -> str:
    """The word that says the danger is over, where nothing after it says that it is not."""
    happened = max((hit.last for hit in acute), default=-1)
    for hit in clause.turn("all_clear"):
        if hit.last > happened and not clause.is_denied(hit.first):
            return clause.text(hit)
    for hit in clause.turn("found"):
        if all(one.term.group == "abduction" for one in standing) and not clause.is_denied(hit.first):
            return clause.text(hit)
    danger = max(hit.last for hit in standing)
    for hit in clause.turn("all_clear_last"):
        rest = range(danger + 1, hit.first)
        quiet = all(clause.words[i].isdigit() or clause.is_small(i) for i in rest)
        if hit.last == len(clause.words) - 1 and hit.first > max(danger, happened) and quiet:
            return clause.text(hit)
    return ""


def _upkeep(clause: Clause, standing: list[Hit]) -> str:
    """The word that says a device is in need, where a device or nothing else stands beside the danger."""
    needs = clause.turn("upkeep")
    if not needs:
        return ""
    devices = _devices(clause, standing)
    taken = {place for hit in [*standing, *needs] for place in hit.places}
    bare = all(i in taken or word.isdigit() or clause.is_small(i) for i, word in enumerate(clause.words))
    sensed = all(hit.term.group in SENSED for hit in standing)
    own = any(pattern in OWN_DEVICES for hit in devices for i in hit.places for pattern in clause.patterns[i])
    return clause.text(needs[0]) if (sensed and (devices or bare)) or own else ""


def _devices(clause: Clause, standing: list[Hit]) -> list[Hit]:
    """Names of devices at the danger's side, or that are part of its own name (`Rauchmelder`)."""
    near = {place for hit in standing for i in hit.places for place in range(i - NEAR, i + NEAR + 1)}
    found = clause.turn("device", own=True)
    return [hit for hit in found if set(hit.places) & near]


def _commerce(clause: Clause) -> str:
    """The word of commerce beside the danger, unless it says where: `fire at a sale`."""
    places = {hit.last for hit in clause.turn("place", own=True)}
    for hit in clause.turn("commerce"):
        if not places & set(range(hit.first - NEAR, hit.first)):
            return clause.text(hit)
    return ""


def _beside(field: Field, clause: Clause, other: Field, found: Meaning) -> Meaning:
    """What another clause, or the other field, makes of a danger that nothing in its own clause turned."""
    acute = [hit for hit in clause.turn("acute", own=True) if not clause.is_denied(hit.first)]
    if acute or field.real:
        return found
    if other.clauses and not other.dangers and not other.says("acute"):
        last = other.clauses[-1].turn("all_clear_last") if len(other.clauses[-1].words) <= NEAR else []
        ended = other.says("all_clear") or (other.clauses[-1].text(last[0]) if last else "")
        if ended:
            return msgspec.structs.replace(found, reading=Reading.ALL_CLEAR, because=ended)
        needs = other.says("upkeep")
        if needs and _devices(clause, clause.dangers):
            return msgspec.structs.replace(found, reading=Reading.UPKEEP, because=needs)
        if len(other.clauses) == 1 and len(other.clauses[0].words) == 1 and other.says("marketing"):
            return msgspec.structs.replace(
                found, reading=Reading.COMMERCIAL, because=other.clauses[0].words[0]
            )
    for beside in field.clauses:
        needs = "" if beside is clause or beside.dangers else _first(beside, "upkeep")
        if needs and any(
            p in OWN_DEVICES
            for hit in _devices(clause, clause.dangers)
            for i in hit.places
            for p in clause.patterns[i]
        ):
            return msgspec.structs.replace(found, reading=Reading.UPKEEP, because=needs)
    return found


def _first(clause: Clause, kind: str) -> str:
    hits = clause.turn(kind)
    return clause.text(hits[0]) if hits else ""
