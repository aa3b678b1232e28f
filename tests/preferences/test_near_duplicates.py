"""Groups of equal and nearly equal prompts."""

from __future__ import annotations

import random

import pytest

from rlalign.preferences.near_duplicates import normalized, prompt_groups, similarity


def words(rng: random.Random, count: int) -> list[str]:
    return ["".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=rng.randint(2, 9))) for _ in range(count)]


def shingles(text: str) -> set[str]:
    return {text[i : i + 5] for i in range(len(text) - 4)}


def test_equal_after_normalization() -> None:
    texts = ["Add 3 and 4.", "Name a river.", "add  3 AND 4", "2 + 2 =", "2+2", "2 + 3 =", "name a river"]
    assert prompt_groups(texts) == [0, 1, 0, 3, 3, 5, 1]


def test_questions_that_differ_in_numbers_or_signs_are_no_duplicates() -> None:
    sums = [f"What is {a} {sign} {b}?" for a in range(20) for b in range(10) for sign in "+-*/"]
    assert prompt_groups(sums) == list(range(800))
    products = [f"Calculate {a * 37} times {a + 3} and explain." for a in range(100)]
    assert prompt_groups(products) == list(range(100))


def test_similarity_is_jaccards_of_the_shingles() -> None:
    a = "the quick brown fox jumps over the lazy dog"
    b = "the quick brown cat jumps over the lazy dog"
    assert similarity(a, b) == pytest.approx(len(shingles(a) & shingles(b)) / len(shingles(a) | shingles(b)))


def test_near_duplicates_are_found_and_others_are_not() -> None:
    """400 pairs with 1 to 12 of 30 words replaced: those from the threshold on are found, none below it.

    21 bands of 6 values find a pair at the threshold with probability 0.998, and more similar ones more often: 2 misses
    among at most 400 have a probability below 0.2, and the seed is fixed.
    """
    rng = random.Random(1)
    known = words(rng, 3000)
    texts = [" ".join(rng.choices(known, k=30)) for _ in range(400)]
    changed = []
    for i, text in enumerate(texts):
        parts = text.split()
        for place in rng.sample(range(30), 1 + i % 12):
            parts[place] = rng.choice(known)
        changed.append(" ".join(parts))
    groups = prompt_groups([*texts, *changed])
    assert groups[:400] == list(range(400))
    for i in range(400):
        near = similarity(texts[i], changed[i]) >= 0.8
        assert groups[400 + i] == (i if near else 400 + i), (i, similarity(texts[i], changed[i]))
    assert 50 < sum(groups[400 + i] == i for i in range(400)) < 350


def test_groups_are_transitive_and_named_by_their_first_text() -> None:
    rng = random.Random(2)
    chain = words(rng, 60)
    texts = [" ".join(words(rng, 50)), " ".join(chain)]
    for place in (5, 15, 25, 35, 45):
        chain = [*chain[:place], *words(rng, 2), *chain[place + 2 :]]
        texts.append(" ".join(chain))
    assert similarity(texts[1], texts[-1]) < 0.8
    assert prompt_groups(texts) == [0, 1, 1, 1, 1, 1, 1]


def test_prompts_that_share_a_template_are_not_near_duplicates() -> None:
    template = (
        "You are a careful critic of films who is fair to everybody. Continue the following review in exactly one "
        "positive sentence, name one strength of the film, and do not repeat the words of the review: "
    )
    lines = (
        "a train in winter, two old singers, the last lighthouse, five lost dogs, an honest thief, my uncle's orchard",
        "snow in July, the deaf composer, a bridge, twelve letters, her second name, an empty theater, salt, wolves",
        "the clockmaker, nine islands, a borrowed coat, midnight bakers, the quiet twin, one yellow door, grapes",
    )
    things = [thing for line in lines for thing in line.split(", ")]
    texts = [template + thing for thing in things]
    assert similarity(texts[0], texts[4]) >= 0.8  # the template alone makes them similar
    assert len(set(prompt_groups(texts))) == len(texts)


def test_short_and_empty_texts() -> None:
    assert prompt_groups(["", "a", "b", "a ", "?", "!"]) == [0, 1, 2, 1, 4, 5]
    assert prompt_groups([]) == []
    assert normalized("7") == "7"


def test_chinese_prompts() -> None:
    first = (
        "请写一篇关于长江流域的历史、地理和文化的文章，并说明它对中国南方城市的发展有什么影响，"
        "最后比较它与黄河流域在农业、交通和人口方面的不同，字数不超过八百字"
    )
    second = first.replace("文章", "短文")
    assert prompt_groups([first, second, "请写一首关于春天的诗"]) == [0, 0, 2]


def test_equal_input_gives_equal_groups() -> None:
    rng = random.Random(3)
    texts = [" ".join(words(rng, 20)) for _ in range(200)]
    assert prompt_groups(texts) == prompt_groups(list(texts))
