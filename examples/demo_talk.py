"""Small talk drawn from a seed, and the rule that answers it: the reply is a function of the visible turns alone.

A partner tells a name, a pet, a hobby and a town, asks what was said before, and chats in between; the replies use what
the earlier turns hold. Used by make_demo_checkpoints.py to train and to measure.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from dataclasses import dataclass

from demo_words import FIRST_NAMES, invent, is_held_out
from demo_words import TOWNS as TOWN_NAMES

INVENTED = 0.12
"""Of all names, how many are words that no list holds, so that names are copied and not known by heart."""

NAMES = [name.lower() for name in FIRST_NAMES]
TOWNS = [town.lower() for town in TOWN_NAMES]
PETS = (
    "rex bella luna max coco milo daisy ruby simba tiger pepper biscuit lucky buddy ginger jasper kiki lola molly "
    "nemo oreo poppy rocky rosie shadow smokey snowy spot teddy toby whiskers willow ziggy"
).split()
KINDS = "dog cat rabbit horse parrot hamster goat turtle mouse snake pony goldfish budgie lizard".split()
HOBBIES = (
    "swimming reading cooking running painting dancing singing cycling fishing skiing sailing gardening climbing "
    "knitting hiking drawing baking surfing camping writing riding rowing skating sewing jogging diving walking "
    "shopping boxing travelling gaming bowling"
).split()
FOODS = (
    "soup pizza rice salad bread pasta fish tofu curry cake cheese stew sushi lasagne chicken porridge fruit "
    "toast lamb pie chocolate"
).split()
WEATHERS = "rainy windy cold warm cloudy hot grey foggy stormy dry wet".split()
GOOD = "great good fine glad okay well excited cheerful".split()
BAD = "sad tired lonely ill bored sick angry worried nervous stressed".split()
TOPICS = (
    "football politics space history music films robots cars computers trains maths money art science chess birds "
    "tennis poetry philosophy physics school work love planes flowers books games food sport wine coffee tea god "
    "weather"
).split()


@dataclass(frozen=True)
class Exchange:
    """The turns so far, the partner's last one at the end, and the reply to give."""

    turns: tuple[str, ...]
    reply: str


@dataclass(frozen=True)
class _Said:
    """What the partner says: its kind, the value it is about, and the words."""

    kind: str
    value: str
    text: str


@dataclass(frozen=True)
class _Known:
    """What the visible turns tell of the partner; empty where they do not."""

    name: str = ""
    pet: str = ""
    hobby: str = ""
    town: str = ""

    @property
    def address(self) -> str:
        return f", {self.name}" if self.name else ""


def _known(told: dict[str, str], turns: tuple[str, ...]) -> _Known:
    """Of the facts told, those whose word still stands in the turns: what was dropped is forgotten."""
    words = {word for turn in turns for word in re.findall(r"[a-z]+", turn)}
    return _Known(**{fact: value for fact, value in told.items() if value in words})


_SAYINGS = {
    "name": (
        "hi, i am {}.", "hello! my name is {}.", "my name is {}.", "i am {}.", "hi! i am {}. how are you?", "{}.",
        "hello, this is {}.", "you can call me {}.", "hey, my name is {}.", "{}",
        "hello, my name is {}. nice to meet you.",
    ),
    "hobby": (
        "i like {}.", "i love {}.", "i really like {}.", "{} is my hobby.", "in my free time i enjoy {}.", "{}.",
        "i like {} a lot.", "mostly {}.", "{}",
    ),
    "town": ("i live in {}.", "i am from {}.", "my home is in {}.", "{}.", "in {}.", "i moved to {} last year.", "{}"),
    "good": ("i feel {} today.", "i am {}.", "i am {} today.", "i am {}, thank you.", "{}, thanks!"),
    "bad": ("i feel {} today.", "i am {}.", "i am {} today.", "i am a bit {}.", "not well, i am {}."),
    "food": ("i had {} for lunch.", "i ate {} today.", "i made {} for dinner.", "we are having {} tonight."),
    "weather": ("it is {} today.", "it is {} here.", "the weather is {}.", "what a {} day!"),
    "topic": ("what do you think about {}?", "tell me about {}.", "do you know anything about {}?", "do you like {}?"),
    "pet": (
        "i have a {kind} called {}.", "my {kind} is called {}.", "yes, a {kind} called {}.",
        "i have a {kind}. it is called {}.",
        "yes, i have a {kind}. the name is {}.", "there is my {kind}, {}.", "yes, i have a {kind} named {}.",
    ),
    "other": (
        "tell me a joke.", "can you sing?", "what time is it?", "how old are you?", "i have to work today.", "why?",
        "that is funny.", "i watched a film yesterday.", "what should i do?", "my car is broken.", "really?", "okay.",
        "i went to the shop.", "my sister called me.", "are you sure?", "i do not understand.", "say something.",
        "i am going to bed.", "what is that?", "when is that?", "i bought a new phone.", "nothing much.", "maybe.",
    ),
    "hello": ("hello!", "hi!", "hi there.", "hey!", "good morning.", "hello there!", "hello", "hi"),
    "you": ("who are you?", "what is your name?", "are you a robot?", "what are you?"),
    "able": ("what can you do?", "what can we talk about?", "what do you know?", "can you help me?"),
    "how": ("how are you?", "how are you today?", "how is it going?", "and how are you?"),
    "thanks": ("thank you.", "thanks!", "thank you very much.", "that is kind of you."),
    "yes": ("yes.", "yes!", "sure.", "of course.", "yes, i do.", "yes"),
    "no": ("no.", "not really.", "no, i do not.", "no, never.", "no"),
    "bye": ("bye!", "goodbye.", "see you later.", "i have to go now.", "bye", "good night."),
    "ask name": ("what is my name?", "do you know my name?", "who am i?", "do you remember my name?"),
    "ask pet": ("what is my pet called?", "do you remember my pet?", "what is the name of my pet?"),
    "ask hobby": ("what do i like to do?", "what is my hobby?", "do you remember my hobby?", "what do i like?"),
    "ask town": ("where do i live?", "do you remember where i live?", "which town am i from?"),
}  # fmt: skip
_VALUES = {
    "name": NAMES, "pet": PETS, "hobby": HOBBIES, "town": TOWNS, "good": GOOD, "bad": BAD, "food": FOODS,
    "weather": WEATHERS, "topic": TOPICS,
}  # fmt: skip
_FACTS = ("name", "pet", "hobby", "town")
_CHAT = (
    "good",
    "bad",
    "food",
    "weather",
    "topic",
    "other",
    "hello",
    "you",
    "able",
    "how",
    "thanks",
    "yes",
    "no",
    "bye",
)
_ASKS = ("ask name", "ask pet", "ask hobby", "ask town")


def _answer(said: _Said, known: _Known) -> str:
    """The reply to `said`, given what is known once it was said."""
    if said.kind in _FACTS:
        return _answer_fact(said, known)
    if said.kind in _ASKS:
        return _answer_question(said.kind, known)
    return _answer_chat(said, known)


def _answer_fact(said: _Said, known: _Known) -> str:
    if said.kind == "name":
        more = f"how is {known.pet} today?" if known.pet else "do you have a pet?"
        return f"nice to meet you, {said.value}. {more}"
    if said.kind == "pet":
        more = f"is {known.hobby} fun for you both?" if known.hobby else "what do you like to do?"
        return f"{said.value} is a lovely name. {more}"
    if said.kind == "hobby":
        more = f"is {known.town} a good place for that?" if known.town else "where do you live?"
        return f"{said.value} is fun{known.address}. {more}"
    more = f"do you like it there, {known.name}?" if known.name else "what is your name?"
    return f"i have heard good things about {said.value}. {more}"


def _answer_question(kind: str, known: _Known) -> str:
    if kind == "ask name":
        return f"your name is {known.name}." if known.name else "you have not told me your name yet."
    if kind == "ask pet":
        return f"your pet is called {known.pet}." if known.pet else "you have not told me about a pet yet."
    if kind == "ask hobby":
        return f"you like {known.hobby}." if known.hobby else "you have not told me what you like yet."
    return f"you live in {known.town}." if known.town else "you have not told me where you live yet."


def _answer_chat(said: _Said, known: _Known) -> str:
    address, value = known.address, said.value
    fun = known.hobby or "a good book"
    plain = {
        "hello": "hello again" + address + "! what is new?" if known.name else "hello! what is your name?",
        "you": "i am a small demo model and i have no name.",
        "able": "i can talk about names, pets, hobbies and towns.",
        "how": f"i am well, thank you{address}. how are you?",
        "thanks": f"you are welcome{address}.",
        "yes": f"good to hear{address}. tell me more.",
        "no": f"all right{address}. tell me something else.",
        "good": f"i am glad to hear that{address}." + (f" give {known.pet} a hug from me." if known.pet else ""),
        "bad": f"i am sorry to hear that{address}. maybe {fun} will help.",
        "food": f"{value} sounds good{address}." + (f" did {known.pet} get some too?" if known.pet else ""),
        "weather": f"a {value} day is right for {fun}.",
        "topic": f"i do not know much about {value}. tell me about you{address}.",
        "other": f"i see{address}. i only know small talk.",
        "bye": f"goodbye{address}." + (f" say hello to {known.pet} from me." if known.pet else " talk to you soon."),
    }
    return plain[said.kind]


def _say(kind: str, random_state: random.Random, told: dict[str, str]) -> _Said:
    """Something of this kind to say; a fact in it is noted in `told`."""
    template = random_state.choice(_SAYINGS[kind])
    value = random_state.choice(_VALUES[kind]) if kind in _VALUES else ""
    # A single word that nobody has read before is taken for a name; other facts then need words around them.
    if kind in ("name", "pet", "town") and (kind == "name" or len(template) > 3) and random_state.random() < INVENTED:
        value = invent(random_state, longest=6)
    if kind in _FACTS:
        if value in told.values():
            return _say(kind, random_state, told)
        told[kind] = value
    return _Said(kind, value, template.format(value, kind=random_state.choice(KINDS)))


def _plan(length: int, random_state: random.Random) -> list[list[str]]:
    """Kinds of `length` things to say: each fact at most once, in any order, questions and chat between."""
    facts = list(_FACTS) if random_state.random() < 0.5 else random_state.sample(_FACTS, 4)
    chance = random_state.choice((0.3, 0.6))
    plan: list[list[str]] = []
    while len(plan) < length:
        kinds = ["hello"] if random_state.random() < 0.05 else []
        while facts and random_state.random() < chance and len(kinds) < 2:
            kinds.append(facts.pop(0))
            if random_state.random() < 0.85:
                break
        if not kinds or random_state.random() < 0.05:
            kinds.append(random_state.choice(_ASKS if random_state.random() < 0.4 else _CHAT))
        plan.append(kinds)
    return plan


def exchange(random_state: random.Random, replies: int, visible: int | None = None) -> Exchange:
    """A talk of `replies` replies, drawn from `random_state`; the last reply is the one to give.

    With `visible`, the partner has forgotten all but the last `visible` turns, and the last reply shows it.
    """
    turns: tuple[str, ...] = ()
    told: dict[str, str] = {}
    reply, last = "", _Said("", "", "")
    for kinds in _plan(replies, random_state):
        said = [_say(kind, random_state, told) for kind in kinds]
        turns = (*turns, *([reply] if turns else []), " ".join(one.text for one in said))
        last = said[-1]
        reply = _answer(last, _known(told, turns))
    if visible is not None:
        turns = turns[-visible:]
        reply = _answer(last, _known(told, turns))
    return Exchange(turns, reply)


def exchanges(seed: int, longest: int = 7, shortest: int = 1, held_out: bool = False) -> Iterator[Exchange]:
    """Endless exchanges of `shortest` to `longest` replies, some with their first turns forgotten.

    The same seed gives the same exchanges. What is held out is never among the others.
    """
    random_state = random.Random(f"talk {seed}")
    while True:
        replies = random_state.randint(shortest, longest)
        visible = random_state.randint(1, 2 * replies - 1) if random_state.random() < 0.15 else None
        one = exchange(random_state, replies, visible)
        if is_held_out("|".join(one.turns)) == held_out:
            yield one
