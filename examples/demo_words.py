"""The words that the made-up reports and talks are about, and words that nobody has read before."""

from __future__ import annotations

import random
import zlib

FIRST_NAMES = (
    "Adam Agnes Ahmed Alice Alma Amelia Amir Amy Anders Andrea Anna Anton Arthur Astrid Ben Bianca Bruno Carla "
    "Carlos Carmen Cecilia Charlie Chloe Clara Colin Dana Daniel David Diana Diego Edith Elena Eli Elsa Emil "
    "Emily Emma Erik Eva Fatima Felix Finn Flora Frank Freya George Georgia Grace Greta Hannah Harry Hassan Helen "
    "Henry Hugo Ida Ines Ingrid Irene Iris Isaac Ivan Jack Jakob Jamal James Jane Jasmine Joan John Jonas Jose "
    "Judith Julia Karim Kate Kevin Klara Lars Laura Lea Lena Leo Liam Lily Linda Louis Lucas Lucy Magnus Maria "
    "Marco Martha Martin Mary Matteo Maya Mehmet Mia Michael Miriam Mohamed Nadia Nathan Nina Nora Oliver Olga "
    "Omar Otto Paul Paula Pedro Peter Petra Philip Priya Rachel Ravi Rita Robert Rosa Ruth Sam Sandra Sara Simon "
    "Sofia Stefan Stella Susan Tara Theo Thomas Tim Tina Tom Ursula Vera Victor Viktor Wei William Yara Yusuf Zoe"
).split()
LAST_NAMES = (
    "Adams Ahmed Andersen Bailey Bauer Becker Bell Berg Bianchi Blanc Brown Byrne Carter Clark Conti Cooper Costa "
    "Cruz Dubois Evans Ferrari Fischer Fraser Garcia Gomez Gray Gruber Hansen Harris Holm Horvat Hughes Ivanov "
    "Jensen Johnson Jones Kask Keller Khan Kim King Koch Kowalski Kumar Larsen Lewis Lindqvist Lopez Martin Meyer "
    "Moreau Moreno Morgan Murphy Nagy Nguyen Nielsen Novak Olsen Papas Park Patel Peeters Pereira Popov Reid "
    "Rossi Santos Sato Schmidt Scott Silva Singh Smith Tanaka Taylor Turner Virtanen Wagner Walker Walsh Ward "
    "Weber Wilson Wong Wright Young Zhang"
).split()
TOWNS = (
    "Aarhus Amsterdam Athens Barcelona Basel Bergen Berlin Bern Bilbao Bologna Boston Bremen Bristol Brno "
    "Brussels Budapest Cairo Cardiff Chicago Cologne Copenhagen Cork Dallas Denver Dresden Dublin Dundee Florence "
    "Galway Geneva Genoa Ghent Glasgow Graz Hamburg Hanoi Helsinki Istanbul Kyoto Lagos Leeds Leipzig Lille Lima "
    "Lisbon Liverpool London Lyon Madrid Malaga Malmo Manchester Milan Montreal Mumbai Munich Nairobi Nantes "
    "Naples Newcastle Osaka Oslo Oxford Palermo Paris Pisa Porto Prague Riga Rome Rotterdam Salzburg Seoul "
    "Seville Stockholm Sydney Tallinn Tampere Tokyo Toronto Turin Utrecht Valencia Venice Verona Vienna Vilnius "
    "Warsaw York Zagreb Zurich"
).split()
_ONSETS = (
    *"b c d f g h j k l m n p r s t v w z b d f g k l m n p r s t".split(),
    *"br ch cl cr dr fl fr gl gr kr pl pr qu sh sk sl sp st sw th tr wh y".split(), "", "",
)  # fmt: skip
_VOWELS = (*"a e i o u a e i o a e".split(), *"ai au ea ee ei ia ie io oa oo ou ue y".split())
_CODAS = (
    "",
    "",
    "",
    "",
    "",
    *"b ck d f g k l ld ll m n nd ng nn ns nt p r rd rk rn rs s ss st t th tt v x z h".split(),
)
_ENDINGS = ("", "", "", *"a en er field ford ham ia in land o on port son ton ville y".split())


def invent(random_state: random.Random, longest: int = 8) -> str:
    """A word in lower case that no list holds, such as a name the model has never read; four to `longest` letters."""
    while True:
        syllables = random_state.choice((1, 1, 2, 2))
        word = "".join(
            random_state.choice(_ONSETS) + random_state.choice(_VOWELS) + random_state.choice(_CODAS)
            for _ in range(syllables)
        ) + random_state.choice(_ENDINGS)
        if 4 <= len(word) <= longest:
            return word


def is_held_out(text: str) -> bool:
    """Whether a text is kept for measuring: one in twenty is, decided by the text itself, whatever the seed."""
    return zlib.crc32(text.encode()) % 20 == 0
