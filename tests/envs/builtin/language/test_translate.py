"""Tests of Translate: agreement, measure words, rewards and limits."""

import numpy as np
import pytest

from rlalign.envs.builtin.language.translate import sentence
from rlalign.envs.registration import make_mdp


def test_german_agrees_and_chinese_has_measure_words() -> None:
    sentences = {made["en"]: made for made in (sentence(rng, 5) for rng in np.random.default_rng(0).spawn(20_000))}
    cat = sentences["the small cat sees a red apple"]
    assert cat["de"] == "die kleine Katze sieht einen roten Apfel"
    assert cat["zh"] == "那只小猫看见一个红苹果"
    teacher = sentences["the new teacher buys a big book"]
    assert teacher["de"] == "der neue Lehrer kauft ein großes Buch"
    assert teacher["zh"] == "那位新老师买一本大书"
    assert sentences["the big child finds a new lamp"]["de"] == "das große Kind findet eine neue Lampe"
    assert len(sentences) > 3_000  # of 3,125; each is missed with probability 0.002


def test_wrong_article_costs_less_than_wrong_sentence(score) -> None:
    mdp = make_mdp("translate")
    task = mdp.source.get("train", 0)
    answer = task.columns["answer"]
    words = answer.split()
    wrong_article = " ".join(["das" if words[0] != "das" else "die", *words[1:]])
    totals = score(mdp, task, answer, wrong_article, " ".join(reversed(words)), task.prompt, "")["total"]
    assert totals[0] == pytest.approx(1)
    assert 1 > totals[1] > totals[2] > totals[4] == 0
    assert totals[3] < totals[1]


def test_words_and_bytes_have_their_own_limits() -> None:
    mdp = make_mdp("translate")
    assert mdp.max_new == mdp.with_tokenizer(mdp.tokenizer).max_new == 12
    assert mdp.with_tokenizer("bytes").max_new == make_mdp("translate", tokenizer="bytes").max_new == 64
    assert make_mdp("translate", max_new=20).with_tokenizer("bytes").max_new == 20
    assert mdp.with_limits(max_new=5).with_tokenizer("bytes").max_new == 5
    assert mdp.with_limits(max_prompt=80).with_tokenizer("bytes").max_new == 64
