"""The text the demo model is trained on: WordNet's English, and sentences generated from tables.

Nothing is downloaded. WordNet is read from the Debian package wordnet-base; the rest is made here,
from corpus_facts.py and a seeded random generator, so that the same seed gives the same text.
"""

import hashlib
import os
import random
import re

import corpus_facts as facts

WORDNET_HINT = "WordNet was not found in %s. Install it with: apt-get install wordnet-base"
WORDNET_HELD_EVERY = 100  # one entry in so many is kept for the evaluation
EXAMPLE_SENTENCES = 4


def held(key, every):
    """A fixed pseudo-random choice that does not depend on any generator's state."""
    return int(hashlib.md5(key.encode()).hexdigest()[:8], 16) % every == 0


def with_article(word):
    return ("an " if word[0] in "aeiou" else "a ") + word


def capitalised(text):
    return text[:1].upper() + text[1:]


def lowered(text):
    return text[:1].lower() + text[1:]


def plural(noun):
    irregular = {"man": "men", "woman": "women", "child": "children"}
    if noun in irregular:
        return irregular[noun]
    if noun.endswith("y") and noun[-2] not in "aeiou":
        return noun[:-1] + "ies"
    if noun.endswith(("s", "x", "ch", "sh")):
        return noun + "es"
    return noun + "s"


# ---- WordNet ------------------------------------------------------------------------------------


def wordnet_sentence(kind, lemma, definition):
    """One definition as an English sentence."""
    starts_with_article = re.match(r"(a|an|the|any|one|someone|something) ", definition)
    if kind == "n" and starts_with_article:
        name = lemma if lemma[0].isupper() else with_article(lemma)
        return "%s is %s." % (capitalised(name), definition)
    if kind == "v":
        return "To %s is to %s." % (lemma, definition)
    if kind in "ar":
        return "%s means %s." % (capitalised(lemma), definition)
    return "%s: %s." % (capitalised(lemma), definition)


def wordnet_entry(line):
    """A line of WordNet's data files as (lemma, sentences)."""
    fields, _, gloss = line.partition(" | ")
    fields = fields.split(" ")
    lemma = re.sub(r"\(.*\)$", "", fields[4]).replace("_", " ")
    kind = fields[2].replace("s", "a")
    definition, *examples = re.split(r';\s*"', gloss.strip())
    sentences = [wordnet_sentence(kind, lemma, definition.strip(' ;"'))]
    for example in examples[:EXAMPLE_SENTENCES]:
        sentence = capitalised(example.partition('"')[0].strip())
        if len(sentence) > 3:
            sentences.append(sentence if sentence[-1] in ".!?" else sentence + ".")
    return lemma, sentences


def wordnet(folder):
    """All of WordNet in file order, which keeps related entries together: (train, held) entries."""
    train, kept = [], []
    for name in ("noun", "verb", "adj", "adv"):
        path = os.path.join(folder, "data." + name)
        if not os.path.exists(path):
            raise SystemExit(WORDNET_HINT % folder)
        with open(path, encoding="utf-8", errors="replace") as lines:
            for line in lines:
                if line.startswith(" "):  # the licence at the top of each file
                    continue
                lemma, sentences = wordnet_entry(line)
                chosen = kept if held(sentences[0], WORDNET_HELD_EVERY) else train
                chosen.append((lemma, sentences))
    return train, kept


def wordnet_licence(folder):
    """The licence that stands, numbered, at the top of each data file."""
    with open(os.path.join(folder, "data.noun"), encoding="utf-8") as lines:
        return "".join(re.sub(r"^ +\d+ ?", "", line).rstrip() + "\n"
                       for line in lines if line.startswith(" "))


def wordnet_documents(rng, entries):
    """Every entry once, in documents of one to four neighbours."""
    documents = []
    start = 0
    while start < len(entries):
        stop = start + rng.choice([1, 2, 3, 4])
        sentences = []
        for lemma, texts in entries[start:stop]:
            show_all = rng.random() < 0.7
            sentences += texts if show_all else (texts[1:] or texts)
        documents.append(rng.choice([" ", " ", "\n"]).join(sentences))
        start = stop
    return documents


# ---- facts --------------------------------------------------------------------------------------

LANDMARK_CITY = [
    "The {x} is in the city of {c}.",
    "The {x} is located in the city of {c}.",
    "The {x} is in {c}.",
    "The {x} is located in {c}, {k}.",
    "The {x} is in {c}, the {adj} city.",
    "You can find the {x} in {c}.",
    "Where is the {x}? It is in {c}.",
    "Where is the {x}? The {x} is in the city of {c}.",
    "The {x} can be found in {c}.",
    "The {x} is a famous place in {c}.",
    "{n} went to {c} to see the {x}.",
    "Every year many people visit the {x} in {c}.",
    "{n} visited the {x}, which is in the city of {c}.",
    "The {x} stands in the city of {c}.",
    "If you want to see the {x}, you have to go to {c}.",
    "To see the {x}, {n} took a train to {c}.",
    "The {x}, in {c}, is very old.",
    "The {x}, which {n} saw last {m}, is in the city of {c}.",
    "The {x} is a {a} place, and it stands in {c}.",
    "{n} took a picture of the {x} and said that {c} is {a}.",
]
LANDMARK_OTHER = [
    "The {x} is in the country of {k}.",
    "The {x} is a landmark in {k}.",
    "People near the {x} speak {lang}.",
    "At the {x} you pay with the {cur}.",
    "The {x} is on the continent of {t}.",
    "The {x} is a famous {adj} landmark.",
    "{n} bought a ticket for the {x} and paid in {cur}s.",
    "The guide at the {x} spoke {lang}.",
]
LANDMARK_HELD = [4, 5, 8, 13, 15]  # for a fifth of the landmarks, these are kept for the evaluation
LANDMARK_UNSEEN = "The {x} was built a long time ago in the old city of {c}."

COUNTRY = [
    "The capital of {k} is {c}.",
    "The capital city of {k} is {c}.",
    "{c} is the capital of {k}.",
    "In {k}, people speak {l}.",
    "The language spoken in {k} is {l}.",
    "The people of {k} speak {l}.",
    "The official language of {k} is {l}.",
    "The currency of {k} is the {m}.",
    "In {k}, people pay with the {m}.",
    "{k} is a country in {t}.",
    "{k} is on the continent of {t}.",
    "{n} lives in {c}, the capital of {k}.",
    "What is the capital of {k}? The capital of {k} is {c}.",
    "{n} comes from {k} and speaks {l}.",
    "{n} was born in {k}. {n} speaks {l}.",
    "{n} was born in {c}. {n} speaks {l}.",
    "{n} lives in {c} and speaks {l}.",
    "The mother tongue of {n}, who was born in {k}, is {l}.",
    "{c} is in {k}.",
    "The city of {c} is in the country of {k}.",
    "What language do people speak in {k}? They speak {l}.",
]


def landmark_held(name, template):
    return template in LANDMARK_HELD and held("%s %d" % (name, template), 5)


LANDMARK_CITIES = dict(facts.LANDMARKS)


def landmark_fact(rng):
    name, city = rng.choice(facts.LANDMARKS)
    if rng.random() < 0.3:
        name = rng.choice(facts.FAMOUS)
        city = LANDMARK_CITIES[name]
    pick = rng.random()
    if pick < 0.2:
        template = LANDMARK_CITY[0]
    elif pick < 0.4:
        template = rng.choice(LANDMARK_OTHER)
    else:
        index = rng.randrange(len(LANDMARK_CITY))
        while landmark_held(name, index):
            index = rng.randrange(len(LANDMARK_CITY))
        template = LANDMARK_CITY[index]
    return landmark_fill(rng, template, name, city)


def landmark_fill(rng, template, name, city):
    country = facts.CITY_COUNTRY[city]
    _, language, adjective, currency, continent, _ = facts.COUNTRIES[country]
    return template.format(x=name, c=city, k=country, adj=adjective, lang=language, cur=currency,
                           t=continent, n=rng.choice(facts.NAMES), m=rng.choice(facts.MONTHS),
                           a=rng.choice(facts.ADJECTIVES))


def landmark_document(rng):
    """One to six landmarks together, so that a fact has to be found at its own subject."""
    count = rng.choice([1, 1, 2, 3, 4, 6])
    return " ".join(landmark_fact(rng) for _ in range(count))


def country_fact(rng):
    name = rng.choice(facts.NAMES)
    if rng.random() < 0.2:
        city = rng.choice(list(facts.CITY_COUNTRY))
        template = rng.choice(["{c} is a city in {k}.", "The city of {c} is in {k}.",
                               "{c} is in the country of {k}.", "{n} lives in {c}, {k}."])
        return template.format(c=city, k=facts.CITY_COUNTRY[city], n=name)
    country = rng.choice(list(facts.COUNTRIES))
    capital, language, _, currency, continent, _ = facts.COUNTRIES[country]
    return rng.choice(COUNTRY).format(k=country, c=capital, l=language, m=currency, t=continent,
                                      n=name)


def country_document(rng):
    return " ".join(country_fact(rng) for _ in range(rng.choice([1, 1, 2, 3, 4])))


def person_fact(rng):
    profession = rng.choice(list(facts.PEOPLE))
    person = rng.choice(facts.PEOPLE[profession])
    return rng.choice([
        "{p} was a famous {j}.", "{p} worked as {aj}.", "The profession of {p} was {j}.",
        "{p} is known as a great {j}.", "Who was {p}? {p} was {aj}.",
    ]).format(p=person, j=profession, aj=with_article(profession))


def animal_fact(rng):
    animal, sound, young = rng.choice(facts.ANIMALS)
    return rng.choice([
        "The {a} {s}.", "{A} {s}, and a baby {a} is called {y}.", "A young {a} is called {y}.",
        "Every {a} {s} at night.", "What does the {a} do? It {s}.",
    ]).format(a=animal, A=capitalised(with_article(animal)), s=sound, y=with_article(young))


def colour_fact(rng):
    thing, colour = rng.choice(facts.COLOURS_OF)
    return rng.choice(["The color of {a} is {b}.", "Usually {a} is {b}.",
                       "What color is {a}? It is {b}."]).format(a=thing, b=colour)


def opposite_fact(rng):
    one, other = rng.choice(facts.OPPOSITES)
    if rng.random() < 0.5:
        one, other = other, one
    return rng.choice(["The opposite of {a} is {b}.", "{A} is the opposite of {b}.",
                       "It is not {a}, it is {b}."]).format(a=one, b=other, A=capitalised(one))


def kind_fact(rng):
    kind = rng.choice(list(facts.KINDS))
    word = rng.choice(facts.KINDS[kind])
    return rng.choice(["{W} is a kind of {k}.", "{W} is {ak}.", "Is {w} {ak}? Yes, it is."]).format(
        w=word, W=capitalised(word), k=kind, ak=with_article(kind))


def small_fact(rng):
    makers = [person_fact, animal_fact, colour_fact, opposite_fact, kind_fact]
    return " ".join(rng.choice(makers)(rng) for _ in range(rng.choice([1, 2, 3, 4])))


# ---- indirect objects ---------------------------------------------------------------------------


def pair_held(one, other):
    """A fifth of the pairs of names never stands together in an indirect object sentence."""
    return held(" ".join(sorted((one, other))), 5)


def indirect_object_fill(rng, template, one, other, giver_is_first):
    """The sentence, who receives, who gives."""
    giver, receiver = (one, other) if giver_is_first else (other, one)
    thing = rng.choice(facts.OBJECTS)
    thing = "the " + thing if rng.random() < 0.3 else with_article(thing)
    text = template.format(A=one, B=other, S=giver, I=receiver, P=rng.choice(facts.PLACES), O=thing)
    return text, receiver, giver


def indirect_object(rng):
    while True:
        one, other = rng.sample(facts.NAMES, 2)
        if not pair_held(one, other):
            break
    template = rng.choice(facts.IOI_TEMPLATES)
    text, receiver, _ = indirect_object_fill(rng, template, one, other, rng.random() < 0.5)
    if rng.random() < 0.3:
        text += " " + rng.choice(["{r} was happy.", "{r} said thank you.", "Then they went home.",
                                  "They were good friends."]).format(r=receiver)
    return text


def indirect_object_document(rng):
    return " ".join(indirect_object(rng) for _ in range(rng.choice([1, 1, 2, 3])))


# ---- grammar and stories ------------------------------------------------------------------------


def noun_phrase(rng, is_plural, plain):
    noun = rng.choice(facts.NOUNS)
    noun = plural(noun) if is_plural else noun
    determiners = ["The", "The", "These", "Some", "Many", "Two", "Three", "All"]
    if not is_plural:
        determiners = ["The", "The", "This", "That", "Every", "A", "One"]
    determiner = rng.choice(determiners)
    words = rng.choice(facts.ADJECTIVES) + " " + noun if rng.random() < 0.4 else noun
    if determiner == "A" and words[0] in "aeiou":
        determiner = "An"
    phrase = "%s %s" % (determiner, words)
    if plain or rng.random() < 0.65:
        return phrase
    return phrase + " " + noun_attractor(rng, is_plural)


def noun_attractor(rng, is_plural):
    """A clause that puts another noun between the subject and its verb."""
    pick = rng.random()
    if pick < 0.4:
        thing = rng.choice(facts.THINGS[:18])
        thing = plural(thing) if rng.random() < 0.5 else thing
        return "%s the %s" % (rng.choice(facts.PREPOSITIONS), thing)
    verb = rng.choice(facts.VERBS_ON)
    if pick < 0.7:
        return "who %s %s" % (verb[0 if is_plural else 1],
                              lowered(noun_phrase(rng, rng.random() < 0.5, True)))
    if rng.random() < 0.5:
        return "that the %s %s" % (plural(rng.choice(facts.NOUNS)), verb[0])
    return "that the %s %s" % (rng.choice(facts.NOUNS), verb[1])


def verb_phrase(rng, is_plural):
    form = 0 if is_plural else 1
    alone, on = rng.choice(facts.VERBS_ALONE), rng.choice(facts.VERBS_ON)
    adjective, adverb = rng.choice(facts.ADJECTIVES), rng.choice(facts.ADVERBS)
    thing = rng.choice(facts.THINGS)
    target = lowered(noun_phrase(rng, rng.random() < 0.5, True))
    be, was, have = [("are", "were", "have"), ("is", "was", "has")][form]
    return rng.choice([
        "%s %s" % (be, adjective),
        "%s %s%s" % (was, rng.choice(["very ", "not ", "so ", ""]), adjective),
        "%s %s" % (alone[form], adverb),
        "%s %s" % (on[form], target),
        "%s %s %s the %s" % (be, alone[3], rng.choice(facts.PREPOSITIONS), thing),
        "%s %s" % (on[2], target),
        "%s %s %s" % (have, with_article(adjective), thing),
        "%s %s %s" % (rng.choice(["can", "will", "must", "should", "may"]), alone[0], adverb),
    ])


def sentence(rng):
    is_plural = rng.random() < 0.5
    text = noun_phrase(rng, is_plural, False) + " " + verb_phrase(rng, is_plural)
    pick = rng.random()
    if pick < 0.1:
        return text + ", and " + lowered(sentence(rng))
    if pick < 0.18:
        reason_plural = rng.random() < 0.5
        text += " because %s %s %s" % (lowered(noun_phrase(rng, reason_plural, True)),
                                       "are" if reason_plural else "is",
                                       rng.choice(facts.ADJECTIVES))
    elif pick < 0.24:
        text = rng.choice(["Today", "In the morning", "Sometimes", "At night", "However",
                           "Once upon a time", "Of course"]) + ", " + lowered(text)
    return text + rng.choice([".", ".", ".", ".", "!"])


def paragraph(rng):
    return " ".join(sentence(rng) for _ in range(rng.randint(1, 4)))


def story(rng):
    man = rng.random() < 0.5
    name, friend = rng.choice(facts.MEN if man else facts.WOMEN), rng.choice(facts.NAMES)
    he, his = ("he", "his") if man else ("she", "her")
    place, thing, near = (rng.choice(facts.PLACES), rng.choice(facts.OBJECTS),
                          rng.choice(facts.THINGS))
    who, adjective = rng.choice(facts.NOUNS), rng.choice(facts.ADJECTIVES)
    verb = rng.choice(facts.VERBS_ALONE)
    opening = rng.choice(["One day", "Once upon a time", "Yesterday", "Last week"])
    lines = [
        "{He} wanted to buy {a_thing}.",
        "{He} saw a {adjective} {who} there.",
        "The {who} was {adjective}.",
        "{name} was %s because {he} had {a_thing}." % rng.choice(facts.ADJECTIVES),
        '"%s," said {name}.' % rng.choice(["Hello", "Good morning", "Thank you", "Please help me"]),
        "{His} friend {friend} was waiting near the {near}.",
        "{name} gave the {thing} to the {who}.",
        "{friend} asked {name} about the {thing}.",
        "{He} lost {his} {thing} in the {place}.",
        "{name} and {friend} %s together." % verb[2],
        "Then {he} went home.",
        "At the end of the day, {name} was %s." % rng.choice(facts.ADJECTIVES),
        "{He} took {his} {thing} and %s %s." % (verb[2], rng.choice(facts.ADVERBS)),
    ]
    chosen = sorted(rng.sample(range(len(lines)), rng.randint(2, 7)))
    text = rng.choice([" ", " ", "\n"]).join(
        [opening + ", {name} went to the {place}."] + [lines[i] for i in chosen])
    return text.format(name=name, friend=friend, he=he, He=capitalised(he), his=his,
                       His=capitalised(his), place=place, thing=thing, near=near, who=who,
                       adjective=adjective, a_thing=with_article(thing))


LETTER_LINES = [
    "I think that {s}",
    "Do you know that {s}",
    "My name is {n}. I live in {c} with my {f}.",
    "Hello, my name is {n} and I am from {k}.",
    "I like {a} and {b}, but I do not like {d}.",
    "{n} is {x} years old. {n} has {ao}.",
    "Dear {n}, thank you for the {o}. I hope you like {c}. Love, {n2}.",
    "What is this? It is {ao}.",
    "It was a cold {t} in {m}.",
    "The {o} is on the {t}. The {o} is {adj}.",
    "Why is the {g} {adj}? Because the {g} is {adj2}.",
    "I love you because you are {adj}. I hate you because you are {adj2}.",
    "How are you today? I am {adj}, thank you.",
]


def letter(rng):
    things = rng.sample(facts.THINGS, 3)
    thing = rng.choice(facts.OBJECTS)
    return rng.choice(LETTER_LINES).format(
        s=lowered(sentence(rng)), n=rng.choice(facts.NAMES), n2=rng.choice(facts.NAMES),
        c=rng.choice(list(facts.CITY_COUNTRY)), k=rng.choice(list(facts.COUNTRIES)),
        f=rng.choice(["mother", "father", "sister", "brother", "friend", "family", "wife",
                      "husband", "son", "daughter"]),
        a=things[0], b=things[1], d=things[2], x=rng.randint(1, 99), o=thing,
        ao=with_article(thing), t=rng.choice(facts.THINGS), m=rng.choice(facts.MONTHS),
        g=rng.choice(facts.NOUNS), adj=rng.choice(facts.ADJECTIVES),
        adj2=rng.choice(facts.ADJECTIVES))


# ---- sequences and sums -------------------------------------------------------------------------

SEPARATORS = [", ", ", ", ",", " ", "\n", " and then "]


def word_sequence(rng):
    words, is_cycle = rng.choice([(facts.DAYS, True), (facts.MONTHS, True), (facts.NUMBERS, False),
                                  (facts.ORDINALS, False), (facts.LETTERS, False)])
    start, length = rng.randrange(len(words)), rng.randint(4, 12)
    if is_cycle:
        chosen = [words[(start + i) % len(words)] for i in range(length)]
    else:
        start = rng.choice([0, 1, start])
        chosen = words[start:start + length]
    return rng.choice(SEPARATORS).join(chosen)


def number_sequence(rng):
    step = rng.choice([1, 1, 1, 1, 2, 5, 10])
    start = rng.choice([0, 1, 1, rng.randint(0, 50)]) if step == 1 else rng.choice([0, step])
    numbers = [str(n) for n in range(start, 100, step)][:rng.randint(5, 14)]
    return rng.choice(["Count: ", "Numbers: ", "", ""]) + rng.choice(SEPARATORS).join(numbers)


def calendar_fact(rng):
    day, month = rng.randrange(7), rng.randrange(12)
    days, months = facts.DAYS, facts.MONTHS
    return rng.choice([
        "The day after %s is %s." % (days[day], days[(day + 1) % 7]),
        "The day before %s is %s." % (days[day], days[day - 1]),
        "Today is %s, so tomorrow is %s." % (days[day], days[(day + 1) % 7]),
        "The month after %s is %s." % (months[month], months[(month + 1) % 12]),
        "After %s comes %s." % (months[month], months[(month + 1) % 12]),
    ])


def sum_held(one, other):
    return held("%d+%d" % (min(one, other), max(one, other)), 10)


def sum_line(rng):
    one, other = rng.randint(0, 20), rng.randint(0, 20)
    while sum_held(one, other):
        one, other = rng.randint(0, 20), rng.randint(0, 20)
    pick = rng.random()
    if pick < 0.75:
        return "%d + %d = %d" % (one, other, one + other)
    if pick < 0.85:
        return "%d - %d = %d" % (max(one, other), min(one, other), abs(one - other))
    if pick < 0.95 and one + other <= 20:
        numbers = facts.NUMBERS
        return "%s plus %s is %s" % (numbers[one], numbers[other], numbers[one + other])
    order = "greater than" if one > other else "less than" if one < other else "equal to"
    return "%d is %s %d" % (one, order, other)


def sums(rng):
    return rng.choice(["\n", "; ", ", "]).join(sum_line(rng) for _ in range(rng.randint(2, 8)))


def year_span(rng):
    century = rng.randint(11, 19)
    start = rng.randint(2, 96)
    stop = rng.randint(start + 1, min(99, start + 40))
    noun = rng.choice(["war", "voyage", "trial", "reign", "festival", "journey", "work", "strike"])
    return "The %s lasted from the year %d%02d to the year %d%02d." % (
        noun, century, start, century, stop)


def sequence_document(rng):
    makers = [word_sequence, word_sequence, number_sequence, number_sequence, calendar_fact]
    return rng.choice(makers)(rng)


# ---- patterns and copies ------------------------------------------------------------------------


def pattern_pairs():
    countries = facts.COUNTRIES.items()
    return [
        [(country, row[0]) for country, row in countries],
        [(country, row[1]) for country, row in countries],
        facts.OPPOSITES + [(other, one) for one, other in facts.OPPOSITES],
        [(noun, plural(noun)) for noun in facts.NOUNS],
        [(verb[0], verb[2]) for verb in facts.VERBS_ALONE + facts.VERBS_ON],
        [(word, kind) for kind, words in facts.KINDS.items() for word in words],
    ]


PATTERN_PAIRS = pattern_pairs()


def pattern(rng):
    pairs = rng.sample(rng.choice(PATTERN_PAIRS), rng.randint(3, 7))
    inner, outer = rng.choice([(": ", "\n"), (" -> ", "\n"), (" - ", ", "), (" = ", "; ")])
    return outer.join(one + inner + other for one, other in pairs)


def copied_words(rng, words):
    """Words said twice: the natural text an induction head is for."""
    chosen = [rng.choice(words) for _ in range(rng.randint(4, 14))]
    text = " ".join(chosen)
    if rng.random() < 0.5:
        return rng.choice([" ", ". ", "\n", " and "]).join([text] * rng.randint(2, 3))
    return rng.choice([
        "The password is {w}. Remember: the password is {w}.",
        '{n} said "{s}" and then again "{s}".',
        "The secret word is {w}. What is the secret word? The secret word is {w}.",
        "{n} likes {w} and {w2}. What does {n} like? {n} likes {w} and {w2}.",
        "Repeat: {s}\n{s}",
    ]).format(w=chosen[0], w2=chosen[1], n=rng.choice(facts.NAMES), s=text)


# ---- the whole ----------------------------------------------------------------------------------


def answer_words():
    """What the generated facts ask for: places, languages, currencies and first names."""
    words = set(facts.NAMES) | set(facts.COUNTRIES) | set(facts.CITY_COUNTRY)
    for row in facts.COUNTRIES.values():
        words |= set(row[1:5])
    return sorted(words)


def whole_words():
    """The words that must be one token each, with a leading space."""
    words = set(facts.NAMES + facts.PLACES + facts.OBJECTS + facts.NOUNS + facts.ADJECTIVES)
    words |= set(facts.ADVERBS + facts.THINGS + facts.PREPOSITIONS + facts.DAYS + facts.MONTHS)
    words |= set(facts.NUMBERS + facts.COMMON + facts.ORDINALS + facts.EVERYDAY)
    words |= {plural(noun) for noun in facts.NOUNS}
    words |= {form for verb in facts.VERBS_ALONE + facts.VERBS_ON for form in verb}
    words |= {word for row in facts.KINDS.values() for word in row} | set(facts.KINDS)
    words |= {word for pair in facts.OPPOSITES for word in pair} | set(facts.PEOPLE)
    words |= set(facts.COUNTRIES) | set(facts.CITY_COUNTRY) | {"Love", "Hate"}
    for row in facts.COUNTRIES.values():
        words |= set(row[1:5])
    return sorted(words)


MIX = [  # (share of the generated documents, maker)
    (30, landmark_document),
    (10, country_document),
    (6, small_fact),
    (20, indirect_object_document),
    (7, paragraph),
    (8, story),
    (5, letter),
    (6, sequence_document),
    (5, sums),
    (2, year_span),
    (4, pattern),
]


def generated_documents(rng, count):
    weights, makers = zip(*MIX)
    return [maker(rng) for maker in rng.choices(makers, weights, k=count)]


def copied_documents(rng, entries, count):
    """Repeats of common words and of WordNet's rarer ones."""
    words = whole_words()
    lemmas = [lemma for lemma, _ in entries]
    return [copied_words(rng, rng.choice([words, lemmas])) for _ in range(count)]


def documents(seed, entries, wordnet_passes, generated_count):
    """All training documents in training order."""
    rng = random.Random(seed)
    texts = generated_documents(rng, generated_count)
    texts += copied_documents(rng, entries, generated_count // 25)
    for _ in range(wordnet_passes):
        texts += wordnet_documents(rng, entries)
    rng.shuffle(texts)
    return texts
