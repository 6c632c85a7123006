"""Short made-up news reports and the headlines a reader would write over them, drawn from a seed.

Every report tells one event in one to ten sentences; the headline needs its who, what, where and number, and the
other sentences name other people, places and numbers. Used by make_demo_checkpoints.py to train and to measure.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from demo_words import FIRST_NAMES, LAST_NAMES, TOWNS, invent, is_held_out

INVENTED = 0.15
"""Of all names, how many are words that no list holds, so that names are copied and not known by heart."""

BUILDINGS = (
    "bakery hotel school library museum theatre factory warehouse cinema church hospital supermarket farm "
    "restaurant bank shop station market gallery hall pharmacy garage college"
).split()
COMPANIES = (
    "Nordwind Solaris Kestrel Bluefin Axiom Meridian Oakfield Granite Helvia Tramex Lumina Pinewood Orbis Delta "
    "Zenith Aurora"
).split()
DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()
MONTHS = "January February March April May June July August September October November December".split()
SMALL = "two three four five six seven eight nine ten eleven twelve".split()
LARGE = (
    "30 40 50 60 70 80 90 120 150 180 200 250 300 350 400 450 500 600 700 800 900 1,200 1,500 2,000 3,000 5,000".split()
)
SCORES = "1-0 2-0 2-1 3-0 3-1 3-2 4-0 4-1 4-2".split()
THINGS = "paintings bicycles laptops cameras watches coins phones violins rings tractors".split()
ANIMALS = "beetle frog spider orchid lizard fern butterfly snail bat fish".split()
REGIONS = "Brazil Kenya Peru Nepal Iceland Vietnam Chile Morocco Borneo Canada".split()
WORKS = "novel film poem song play painting bridge robot".split()
PRIZES = ["Amber Prize", "Golden Pen", "Silver Lamp", "Northern Medal", "Blue Star", "City Award"]
DRIVERS = "train bus tram taxi ferry".split()


@dataclass(frozen=True)
class Report:
    """One report and its headline."""

    text: str
    headline: str


class _Facts:
    """Draws values for one report, never the same one twice, so that each value has one role."""

    def __init__(self, random_state: random.Random) -> None:
        self.random = random_state
        self.used: set[str] = set()

    def draw(self, values: list[str]) -> str:
        value = self.random.choice(values)
        while value in self.used:
            value = self.random.choice(values)
        self.used.add(value)
        return value

    def proper(self, values: list[str]) -> str:
        """A proper noun: of the list, or invented."""
        if self.random.random() >= INVENTED:
            return self.draw(values)
        return self.draw([invent(self.random).capitalize() for _ in range(2)])

    def town(self) -> str:
        return self.proper(TOWNS)

    def name(self) -> str:
        return f"{self.proper(FIRST_NAMES)} {self.proper(LAST_NAMES)}"

    def pick(self, *choices: str) -> str:
        return self.random.choice(choices)


# Each kind gives the sentence that carries the news (the lead), the sentences with further facts, and the headline.
_Told = tuple[str, list[str], str]


def _hurt(f: _Facts) -> tuple[str, str]:
    """A sentence about the injured, and the words of the headline."""
    if f.random.random() < 0.3:
        return f.pick("Nobody was hurt.", "Everyone got out in time.", "There were no injuries."), "nobody hurt"
    count = f.draw(SMALL)
    told = f.pick(
        f"{count.capitalize()} people were hurt.",
        f"Doctors are treating {count} people.",
        f"{count.capitalize()} people were taken to hospital.",
    )
    return told, f"{count} hurt"


def _fire(f: _Facts) -> _Told:
    building, city, day = f.draw(BUILDINGS), f.town(), f.draw(DAYS)
    lead = f.pick(
        f"A fire broke out in a {building} in {city} on {day}.",
        f"Firefighters in {city} fought a fire at a {building} on {day}.",
        f"Flames tore through a {building} in {city} early on {day}.",
        f"On {day} a {building} in {city} caught fire.",
    )
    told, words = _hurt(f)
    return lead, [told, "The cause is not known."], f"Fire at {building} in {city}, {words}"


def _crash(f: _Facts) -> _Told:
    driver, city, day = f.draw(DRIVERS), f.town(), f.draw(DAYS)
    lead = f.pick(
        f"A {driver} and a lorry collided near {city} on {day}.",
        f"On {day} a lorry ran into a {driver} outside {city}.",
        f"A lorry hit a {driver} on a road near {city} on {day}.",
    )
    told, words = _hurt(f)
    return lead, [told, "The road was closed for hours."], f"Lorry hits {driver} near {city}, {words}"


def _storm(f: _Facts) -> _Told:
    city, day, homes = f.town(), f.draw(DAYS), f.draw(LARGE)
    lead = f.pick(
        f"A storm hit {city} on {day} and left {homes} homes without power.",
        f"In {city}, {homes} homes lost power in a storm on {day}.",
        f"Strong winds cut the power of {homes} homes in {city} on {day}.",
    )
    return lead, ["Trees fell on several roads."], f"Storm leaves {homes} homes in {city} without power"


def _jobs(f: _Facts) -> _Told:
    company, city, people = f.proper(COMPANIES), f.town(), f.draw(LARGE)
    if f.random.random() < 0.5:
        lead = f.pick(
            f"{company} will hire {people} people in {city}.",
            f"In {city}, {company} is looking for {people} new workers.",
            f"{company} said it would take on {people} people at its office in {city}.",
        )
        return lead, [f"{f.name()} runs the company."], f"{company} to hire {people} people in {city}"
    lead = f.pick(
        f"{company} will close its plant in {city} and {people} people lose their jobs.",
        f"In {city}, {people} workers of {company} will lose their jobs.",
        f"{company} said it would let {people} people go in {city}.",
    )
    return lead, [f"{f.name()} runs the company."], f"{company} to cut {people} jobs in {city}"


def _match(f: _Facts) -> _Told:
    winner, loser, score, day = f.town(), f.town(), f.draw(SCORES), f.draw(DAYS)
    scorer = f.proper(LAST_NAMES)
    lead = f.pick(
        f"{winner} beat {loser} {score} on {day}.",
        f"{loser} lost {score} to {winner} on {day}.",
        f"{winner} won {score} against {loser} on {day}.",
        f"On {day} {loser} were beaten {score} by {winner}.",
    )
    goal = f.pick(f"{scorer} scored the first goal.", f"The first goal came from {scorer}.")
    return lead, [goal, "The stadium was full."], f"{winner} beat {loser} {score}, {scorer} scores"


def _election(f: _Facts) -> _Told:
    winner, loser, city = f.name(), f.name(), f.town()
    lead = f.pick(
        f"{winner} is the new mayor of {city}.",
        f"The people of {city} have chosen {winner} as their mayor.",
        f"{city} has a new mayor: {winner}.",
    )
    second = f.pick(f"{loser} came second.", f"The old mayor, {loser}, lost by {f.draw(LARGE)} votes.")
    return lead, [second], f"{winner} elected mayor of {city}"


def _opening(f: _Facts) -> _Told:
    building, city, month = f.draw(BUILDINGS), f.town(), f.draw(MONTHS)
    lead = f.pick(
        f"A new {building} will open in {city} in {month}.",
        f"{city} will get a new {building} in {month}.",
        f"In {month} a new {building} opens its doors in {city}.",
    )
    money = f"It cost {f.draw(SMALL)} million euros."
    return lead, [money], f"New {building} to open in {city} in {month}"


def _theft(f: _Facts) -> _Told:
    things, building, city, count = f.draw(THINGS), f.draw(BUILDINGS), f.town(), f.draw(SMALL)
    lead = f.pick(
        f"Thieves took {count} {things} from a {building} in {city}.",
        f"Police in {city} are looking for {count} {things} that were stolen from a {building}.",
        f"{count.capitalize()} {things} have gone missing from a {building} in {city}.",
    )
    day = f.draw(DAYS)
    return (
        lead,
        [f"A window was found open on {day}."],
        f"{count.capitalize()} {things} stolen from {building} in {city}",
    )


def _discovery(f: _Facts) -> _Told:
    animal, region, city = f.draw(ANIMALS), f.draw(REGIONS), f.town()
    lead = f.pick(
        f"Scientists from {city} have found a new {animal} in {region}.",
        f"A new kind of {animal} was found in {region} by a team from {city}.",
        f"In {region}, researchers from {city} came upon a {animal} that nobody had seen before.",
    )
    return lead, [f"The {animal} is named after {f.name()}."], f"Scientists from {city} find new {animal} in {region}"


def _prize(f: _Facts) -> _Told:
    winner, prize, work = f.name(), f.draw(PRIZES), f.draw(WORKS)
    lead = f.pick(
        f"{winner} has won the {prize} for a {work}.",
        f"The {prize} goes to {winner} for a {work}.",
        f"For a {work}, {winner} was given the {prize}.",
    )
    home = f"The winner lives in {f.town()}."
    return lead, [home], f"{winner} wins {prize} for {work}"


def _strike(f: _Facts) -> _Told:
    driver, city, days = f.draw(DRIVERS), f.town(), f.draw(SMALL)
    lead = f.pick(
        f"The {driver} drivers of {city} will strike for {days} days.",
        f"In {city}, {driver} drivers will stop work for {days} days.",
        f"People in {city} must do without the {driver} for {days} days because its drivers are on strike.",
    )
    return lead, [f"Talks begin on {f.draw(DAYS)}."], f"{city} {driver} drivers to strike for {days} days"


_KINDS: tuple[Callable[[_Facts], _Told], ...] = (
    _fire, _crash, _storm, _jobs, _match, _election, _opening, _theft, _discovery, _prize, _strike,
)  # fmt: skip


def _aside(f: _Facts) -> str:
    """A sentence that is not the news, with people, places and numbers of its own."""
    choice = f.random.randrange(10)
    while f"aside {choice}" in f.used:
        choice = f.random.randrange(10)
    f.used.add(f"aside {choice}")
    if choice == 0:
        return f"{f.name()}, who lives nearby, said it was a day to remember."
    if choice == 1:
        return f"People in {f.town()} heard the news on {f.draw(DAYS)}."
    if choice == 2:
        return f"The mayor of {f.town()}, {f.name()}, sent a message."
    if choice == 3:
        return f"A meeting will be held in {f.town()} in {f.draw(MONTHS)}."
    if choice == 4:
        return f"The last time this happened was {f.draw(SMALL)} years ago."
    if choice == 5:
        return f"More than {f.draw(LARGE)} people talked about it online."
    if choice == 6:
        return f"It was a quiet week in {f.town()}."
    if choice == 7:
        return f'"I have never seen anything like it," said {f.name()}.'
    if choice == 8:
        return f"A reporter from {f.town()} was there."
    return f"In {f.town()} it rained for {f.draw(SMALL)} days."


def report(random_state: random.Random) -> Report:
    """One report and its headline, drawn from `random_state`."""
    f = _Facts(random_state)
    lead, details, headline = random_state.choice(_KINDS)(f)
    asides = random_state.randint(4, 7) if random_state.random() < 0.1 else random_state.randint(0, 3)
    # The last detail is never part of the headline, and a short report does without it.
    rest = details[: len(details) - (random_state.random() < 0.3)] + [_aside(f) for _ in range(asides)]
    random_state.shuffle(rest)
    # Most reports open with the news; some come to it late, so that "copy the first sentence" is no answer.
    rest.insert(0 if random_state.random() < 0.7 else 1, lead)
    return Report(" ".join(rest), headline)


def reports(seed: int, held_out: bool = False) -> Iterator[Report]:
    """Endless reports; the same seed gives the same reports. What is held out is never among the others."""
    random_state = random.Random(f"reports {seed}")
    while True:
        one = report(random_state)
        if is_held_out(one.text) == held_out:
            yield one
