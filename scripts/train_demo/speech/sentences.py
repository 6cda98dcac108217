"""Random sentences and voices."""

import numpy as np

from .espeak import Voice

ONSETS = "b p m f v w d t n l r s z k g h y sh ch th j bl br pl pr tr dr kl kr gl gr st sp sk sm sn sl fl fr tw".split()
NUCLEI = "a e i o u ai ee oo ow oi ar er a e i o u".split()
CODAS = ["", "", "", "", *"m n p b t d k s l r f v ng st nt nd mp lk".split()]

WORDS = """
about above after again all always amber apple around baby balloon bamboo beach beautiful because before below big blue
boat bottle bread bridge bubble camera candle carpet castle chair cheese cherry children circle clever cloud coffee
colour come could dance deep dinner distance dolphin door dream early earth elephant empty engine every evening family
farmer feather feel few finger fire fish five flower fly follow food forest forever four fresh friend garden gentle give
glass gold good grandmother green hammer happy have heavy hello high hill holiday home honey hope house how hundred
island jacket jump kitchen ladder lake language laugh lemon letter light little long look love machine many map maybe
meadow melody memory middle milk mirror moment money monkey moon more morning mother mountain mouth move much music
narrow neighbour never nine noise nothing number ocean often olive open orange other over own paint paper people
pepper perfect piano picture pillow place planet please pocket poem potato promise puppy purple quick quiet rabbit rain
read remember river road room round sail school sea seven shadow shape ship silver simple sister sky sleep slowly small
smile smooth snow soft some song soup spoon spring star stone story street summer sun sweet table tall tea thank there
think thought three thunder tiger time together tomorrow tower train travel tree umbrella under up valley velvet very
village violin voice walk want warm watch water weather welcome well what wheel where white why wide wind window winter
wonderful wood world yellow yes you young zebra
""".split()

# Excluded from training, for the evaluation.
HELD_OUT_LANGUAGES = ("en-gb-scotland", "nl", "ro")
HELD_OUT_VARIANTS = ("f3", "m5", "Andrea", "Michael")

LANGUAGES = ("en-us", "en", "en-gb-x-rp", "de", "fr", "es", "it", "pl", "sv", "pt-br", "tr", "fi", "cs", "id")
VARIANTS = (
    "", "f1", "f2", "f4", "f5", "m1", "m2", "m3", "m4", "m6", "m7", "m8", "Andy", "Annie", "Alicia", "Diogo", "Gene", "Hugo",
    "Lee", "Marco", "Mario", "adam", "anika", "belinda", "caleb", "david", "ed", "edward", "gustave", "iven2", "john", "linda",
    "max", "miguel", "norbert", "paul", "quincy", "rob", "sandro", "shelby", "steph2", "travis", "victor", "zac", "antonio", "boris",
)  # fmt: skip


def random_voice(rng: np.random.Generator, held_out: bool = False) -> Voice:
    languages, variants = (HELD_OUT_LANGUAGES, HELD_OUT_VARIANTS) if held_out else (LANGUAGES, VARIANTS)
    # Half of the sentences are in English, because most of the words are.
    language = languages[rng.integers(0, 3)] if rng.random() < 0.5 else languages[rng.integers(0, len(languages))]
    variant = variants[rng.integers(0, len(variants))]
    return Voice(
        name=f"{language}+{variant}" if variant else language,
        rate=int(rng.integers(115, 205)),
        pitch=int(rng.integers(20, 85)),
        intonation=int(rng.integers(25, 85)),
    )


def random_word(rng: np.random.Generator) -> str:
    if rng.random() < 0.5:
        return WORDS[rng.integers(0, len(WORDS))]
    syllables = [
        ONSETS[rng.integers(0, len(ONSETS))] + NUCLEI[rng.integers(0, len(NUCLEI))] for _ in range(rng.integers(1, 4))
    ]
    return "".join(syllables) + CODAS[rng.integers(0, len(CODAS))]


def random_sentence(rng: np.random.Generator, words: int) -> str:
    """A sentence of `words` words, with random commas."""
    chosen = [random_word(rng) for _ in range(words)]
    marks = [", " if rng.random() < 0.12 else " " for _ in chosen[1:]] + ["."]
    return "".join(word + mark for word, mark in zip(chosen, marks)).capitalize()
