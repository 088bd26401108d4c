"""Bitemporal order: the versions of events that each question may see.

    versions of one event id, by arrival:   v1 ───known──► v2 ───known──► …
    a question as of T sees a version       known from ≤ T < superseded at, and event time < T

Nearly every question sees, of the events before it, exactly the last versions: they are answered together on one
timeline for each advertiser. The others fall between the time of an event and its arrival, or before a restatement.
Each group of those with the same knowledge gets a timeline of its own, with the versions known then.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]

EXPANDED_EVENTS = 2_000_000  # events held at once for questions that need timelines of their own


@dataclass(frozen=True, slots=True)
class Questions:
    """Rows to answer, all of one batch of advertisers: each an advertiser's number and two moments.

    Events before `as_of` count, as they were known at `known_at`; usually the two are the same.
    """

    advertiser: Ints
    as_of: Floats
    known_at: Floats
    row: Ints  # position in the input

    def __getitem__(self, keep: Any) -> Questions:
        return Questions(self.advertiser[keep], self.as_of[keep], self.known_at[keep], self.row[keep])


@dataclass(frozen=True, slots=True)
class Campaigns:
    """The campaigns of a batch, in the order of their hashes."""

    hashes: npt.NDArray[np.uint64]  # ascending, each once
    names: list[str]  # one that has the hash


@dataclass(frozen=True, slots=True)
class Timelines:
    """Events by timeline and event time, and questions by timeline and moment.

    Shapes: (events,) for the first four, (questions,) for the last three.
    """

    timeline: Ints
    time: Floats
    amount: Floats
    campaign: Ints  # its number in `campaigns`; -1: none
    campaigns: Campaigns
    asked: Ints  # the timeline of each question
    as_of: Floats
    row: Ints

    def __getitem__(self, keep: Any) -> Timelines:
        """The same events with some of the questions."""
        return replace(self, asked=self.asked[keep], as_of=self.as_of[keep], row=self.row[keep])


@dataclass(frozen=True, slots=True)
class Versions:
    """Every version of every event of a batch, by advertiser and event time."""

    advertiser: Ints
    time: Floats
    known_from: Floats
    superseded_at: Floats  # infinity: never
    amount: Floats
    campaign: Ints
    campaigns: Campaigns

    @property
    def last(self) -> Mask:
        """Which are the last versions."""
        return np.isinf(self.superseded_at)

    def timelines(self, questions: Questions) -> Iterator[Timelines]:
        """Every question, each on a timeline that holds what it may see and later events; nothing else."""
        special = self._sees_other_than_last(questions)
        if not special.all():
            yield self._lay_out(
                np.flatnonzero(self.last), self.advertiser[self.last], questions[~special], None
            )
        if special.any():
            yield from self._expanded(questions[special])

    def _sees_other_than_last(self, questions: Questions) -> Mask:
        """Whether a question sees other versions than the last ones.

        A last version is missing in (event time, known from); an earlier one is there from the later of both until
        it is superseded. Questions with `known_at` other than `as_of` always count as such.
        """
        apart: Mask = questions.known_at != questions.as_of
        after = np.nextafter(self.time, np.inf)
        begin = np.where(self.last, after, np.maximum(after, self.known_from))
        end = np.where(self.last, self.known_from, self.superseded_at)
        odd = begin < end
        if not odd.any():
            return apart
        inside = _count_up_to(self.advertiser[odd], begin[odd], questions) - _count_up_to(
            self.advertiser[odd], end[odd], questions
        )
        found: Mask = apart | (inside > 0)
        return found

    def _expanded(self, questions: Questions) -> Iterator[Timelines]:
        """A timeline for each advertiser and state of knowledge that is asked about."""
        odd = ~self.last | (self.known_from > self.time) | (questions.known_at != questions.as_of).any()
        moments = np.concatenate([self.known_from[odd], self.superseded_at[odd]])
        owners = np.concatenate([self.advertiser[odd], self.advertiser[odd]])
        state = _count_up_to(owners, moments, questions)
        apart = questions.known_at != questions.as_of
        order = np.lexsort((apart, state, questions.advertiser))
        questions, state = questions[order], state[order]
        new = np.ones(len(order), dtype=np.bool_)
        new[1:] = (np.diff(questions.advertiser) != 0) | (np.diff(state) != 0) | np.diff(apart[order])
        starts = np.flatnonzero(new)
        low = np.searchsorted(self.advertiser, questions.advertiser[starts], side="left")
        high = np.searchsorted(self.advertiser, questions.advertiser[starts], side="right")
        group = np.cumsum(new) - 1
        for first, after in portions(high - low, EXPANDED_EVENTS):
            inside = (group >= first) & (group < after)
            yield self._expand(low[first:after], high[first:after], questions[inside], group[inside] - first)

    def _expand(self, low: Ints, high: Ints, questions: Questions, group: Ints) -> Timelines:
        index, timeline = expand(low, high - low)
        first = np.searchsorted(group, np.arange(len(low)))
        moment = questions.known_at[first][timeline]
        # Versions known at their own time and never changed need no check of arrival: all questions see them.
        usual = (questions.known_at == questions.as_of)[first][timeline]
        plain = usual & np.isinf(self.superseded_at[index]) & (self.known_from[index] <= self.time[index])
        known = (self.known_from[index] <= moment) & (moment < self.superseded_at[index])
        keep = plain | known
        return self._lay_out(index[keep], timeline[keep], questions, group)

    def _lay_out(self, index: Ints, timeline: Ints, questions: Questions, asked: Ints | None) -> Timelines:
        asked = questions.advertiser if asked is None else asked
        order = np.lexsort((questions.as_of, asked))
        return Timelines(
            timeline=timeline,
            time=self.time[index],
            amount=self.amount[index],
            campaign=self.campaign[index],
            campaigns=self.campaigns,
            asked=asked[order],
            as_of=questions.as_of[order],
            row=questions.row[order],
        )


def expand(start: Ints, length: Ints) -> tuple[Ints, Ints]:
    """The positions `start[i] … start[i] + length[i] - 1` of every `i` in turn, and the `i` of each."""
    owner = np.repeat(np.arange(len(length)), length)
    before = np.cumsum(length) - length
    return start[owner] + np.arange(len(owner)) - before[owner], owner


def _count_up_to(owners: Ints, moments: Floats, questions: Questions) -> Ints:
    """For each question, how many moments of its advertiser are at or before what it knows."""
    ranks, rank = np.unique(np.concatenate([moments, questions.known_at]), return_inverse=True)
    width = len(ranks) + 1
    keys = np.sort(owners * width + rank[: len(moments)])
    base = questions.advertiser * width
    found: Ints = np.searchsorted(keys, base + rank[len(moments) :], side="right") - np.searchsorted(
        keys, base
    )
    return found


def portions(sizes: Ints, most: int) -> Iterator[tuple[int, int]]:
    """Ranges of whole groups of about `most` together, at least one group each."""
    first, total = 0, 0
    for number, size in enumerate(sizes.tolist()):
        if total and total + size > most:
            yield first, number
            first, total = number, 0
        total += size
    if first < len(sizes):
        yield first, len(sizes)
