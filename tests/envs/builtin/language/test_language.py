"""The language environments beyond their laws: what their tasks mean, and that their rewards tell right from wrong.

Laws (gold scores, disjoint splits, fuzzed completions, equal tasks in another process) are run on the default of every
environment in test_builtin_envs.py, and on other configurations here.
"""

import json
import re
from collections import Counter
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from rlalign import checks
from rlalign.envs.builtin import corpora
from rlalign.envs.builtin.language import constrained, detoxify, events, math, summarise
from rlalign.envs.builtin.language.alignment import chinese_sentences
from rlalign.envs.builtin.language.classification import lexicon_review
from rlalign.envs.builtin.language.entities import _countries
from rlalign.envs.builtin.language.translate import sentence
from rlalign.envs.builtin.reward_hacking import hack_me, overlong_trap, preference
from rlalign.envs.registration import make_mdp
from rlalign.envs.task_sources import SPLITS
from rlalign.errors import MissingExtraError, UserError
from rlalign.evaluation.evaluate import held_out

VARIANTS = [
    "translate?language=zh",
    "translate?tokenizer=bytes",
    "classification?language=zh",
    "classification?tokenizer=bytes",
    "entities?language=zh",
    "entities?source=faker&language=zh",
    "entities?source=faker",
    "events?language=zh",
    "events?tokenizer=bytes",
    "summarise?reference=keywords",
    "constrained?tokenizer=bytes",
    "math?operations=%2B-*&largest=20",
    "hackme?exploit=format&tokenizer=bytes",
    "hackme?exploit=length",
    "alignment?source=chinese",
]


@pytest.mark.parametrize("spec", VARIANTS)
def test_laws_hold_of_other_configurations(spec: str) -> None:
    for law in checks.check_env(make_mdp(spec), episodes=8):
        assert law.passed, f"{law.name}: {law.detail}"


def score(mdp, task, *completions):
    """Component -> values, and the totals under "total"."""
    n = len(completions)
    columns = {name: [value] * n for name, value in task.columns.items()}
    ids = [[*mdp.tokenizer.encode_prompt(""), *range(len(text.split()))] for text in completions]
    scores = mdp.reward.score("episode", [task.prompt] * n, list(completions), ids, **columns)
    return {**{k.rpartition(":")[2]: v.tolist() for k, v in scores.components.items()}, "total": scores.total.tolist()}


# ---- translation ----


def test_german_agrees_and_chinese_measures() -> None:
    found = {made["en"]: made for made in (sentence(rng, 5) for rng in np.random.default_rng(0).spawn(20_000))}
    cat = found["the small cat sees a red apple"]
    assert cat["de"] == "die kleine Katze sieht einen roten Apfel"
    assert cat["zh"] == "那只小猫看见一个红苹果"
    teacher = found["the new teacher buys a big book"]
    assert teacher["de"] == "der neue Lehrer kauft ein großes Buch"
    assert teacher["zh"] == "那位新老师买一本大书"
    assert found["the big child finds a new lamp"]["de"] == "das große Kind findet eine neue Lampe"
    assert len(found) > 3_000  # of 3,125; a given one is missed with probability 0.002


def test_a_wrong_ending_costs_less_than_a_wrong_sentence() -> None:
    mdp = make_mdp("translate")
    task = mdp.source.get("train", 0)
    right = task.columns["answer"]
    words = right.split()
    wrong = " ".join(["das" if words[0] != "das" else "die", *words[1:]])
    totals = score(mdp, task, right, wrong, " ".join(reversed(words)), task.prompt, "")["total"]
    assert totals[0] == pytest.approx(1)
    assert 1 > totals[1] > totals[2] > totals[4] == 0
    assert totals[3] < totals[1]


# ---- classification ----


def polarity(text: str, language: str) -> str:
    """The label by reading the last clause, word by word."""
    good = {"en": "good funny clever moving fresh bright", "zh": "精彩 有趣 出色 感人 动人 优秀"}[language].split()
    last = text.replace(" but ", "|").replace(" and ", "|").replace("但是", "|").replace("而且", "|").split("|")[-1]
    negated = " not " in last or "不" in last
    return "positive" if any(word in last for word in good) != negated else "negative"


@pytest.mark.parametrize("level", [1, 2, 3])
@pytest.mark.parametrize("language", ["en", "zh"])
def test_lexicon_reviews_mean_their_label(language: str, level: int) -> None:
    names = {"好评": "positive", "差评": "negative", "positive": "positive", "negative": "negative"}
    counts: Counter[str] = Counter()
    for rng in np.random.default_rng(1).spawn(400):
        made = lexicon_review(rng, language, level)
        text = made["prompt"].split("\n")[1]
        assert polarity(text, language) == names[made["answer"]], text
        assert level > 1 or not {"not", "but", "不", "但"} & {*text.split(), *text}
        counts[made["answer"]] += 1
    assert min(counts.values()) > 150  # both labels: 200 of 400 expected; below 150 once in 10 million


def test_anything_but_a_label_is_invalid() -> None:
    mdp = make_mdp("classification")
    task = mdp.source.get("train", 0)
    right = task.columns["answer"]
    (wrong,) = set(task.columns["labels"]) - {right}
    both = f"{right} {wrong}"
    found = score(mdp, task, right, wrong, both, f"{right}!", "", right.upper() + "\n")
    assert found["label_match"] == [1, 0, 0, 0, 0, 1]
    assert found["label_valid"] == [1, 1, 0, 0, 0, 1]


def test_real_reviews_become_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    made = [{"text": f"review {i} " + "很" * 300, "label": ("positive", "negative")[i % 2]} for i in range(30)]
    monkeypatch.setattr(corpora, "reviews", lambda name: made)
    for source, labels in (("imdb", ("positive", "negative")), ("zh", ("好评", "差评"))):
        mdp = make_mdp("classification", source=source)
        tasks = [mdp.source.get("train", i) for i in range(mdp.source.size("train") or 0)]
        assert {task.columns["answer"] for task in tasks} == set(labels)
        assert all(len(mdp.prompt_ids(task)) <= mdp.max_prompt for task in tasks)
        assert "\ufffd" not in "".join(str(task.prompt) for task in tasks)
        number = int(str(tasks[0].prompt).split("review ")[1].split()[0])
        assert tasks[0].columns["answer"] == labels[number % 2]


# ---- mathematics ----


def test_the_last_box_with_its_braces() -> None:
    assert math.last_boxed(r"first \boxed{1}, then \boxed{\frac{1}{2}}.") == r"\frac{1}{2}"
    assert math.last_boxed("no box") is None
    assert math.last_boxed(r"\boxed{never closed") is None


def test_one_filled_box() -> None:
    texts = [r"so \boxed{3}", r"\boxed{1} or \boxed{2}", r"\boxed{}", r"\boxed{ }", "3", ""]
    assert math.boxed(texts) == [1, 0, 0, 0, 0, 0]


def test_word_problems_keep_their_splits(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    rows = {
        "gsm8k/train": [
            {"question": f"How many is {i}?", "answer": f"It is <<{i}>>\n#### 1,{i:03d}"} for i in range(20)
        ],
        "gsm8k/test": [{"question": "Half of five?", "answer": "5/2\n#### 2.5"}],
        "svamp/test": [{"Body": f"There are {i}. ", "Question": "How many?", "Answer": float(i)} for i in range(20)],
        "math/train": [
            {"problem": "p", "solution": r"\boxed{\frac12}", "level": "Level 5"},
            {"problem": "x" * 2000, "solution": r"\boxed{1}"},
            {"problem": "none", "solution": "no box"},
        ],
        "math/test": [{"problem": "q", "solution": r"\boxed{7}"}],
    }
    for name, records in rows.items():
        path = tmp_path / f"{name}.jsonl"
        path.parent.mkdir(exist_ok=True)
        path.write_text("\n".join(map(json.dumps, records)))
    monkeypatch.setattr("rlalign.assets.wheel_member", lambda name: tmp_path)
    gsm8k = make_mdp("math?source=gsm8k")
    assert gsm8k.source.size("test") == 1
    assert gsm8k.source.get("test", 0).columns["answer"] == r"\boxed{2.5}"
    trained = gsm8k.source.get("train", 0)
    assert trained.columns["answer"].startswith(r"\boxed{10")
    svamp = make_mdp("math?source=svamp")
    assert [svamp.source.size(s) for s in ("train", "validation", "test")] == [16, 2, 2]
    assert str(svamp.source.get("train", 0).prompt).count(". How many?") == 1
    level = make_mdp("math?source=math").source
    assert level.size("train") == 1
    assert level.get("train", 0).columns == {
        "level": "Level 5",
        "solution": r"\boxed{\frac12}",
        "answer": r"\boxed{\frac12}",
    }
    found = score(gsm8k, trained, trained.columns["answer"], trained.columns["answer"].strip("\\boxed{}"), "no idea")
    gsm8k.reward.close()
    assert found["math_verify"] == [1, 1, 0]
    assert found["boxed"] == [1, 0, 0]


def test_sums_are_exact_with_a_way_there() -> None:
    mdp = make_mdp("math", largest=20, operations="-")
    task = next(t for i in range(200) if len((t := mdp.source.get("train", i)).columns["answer"]) == 3)
    a, b = str(task.prompt).rstrip("=").split("-")
    assert int(a) - int(b) == int(task.columns["answer"])
    right = task.columns["answer"]
    other = str(int(right) - 2)
    found = score(mdp, task, right, other, f"{a}-{b}", f"{right}0", "--1", "", "²", "9" * 99)
    assert found["exact_match"] == [1, 0, 0, 0, 0, 0, 0, 0]
    assert found["near"] == pytest.approx([1, 0.8, 0, 0, 0, 0, 0, 0])
    with pytest.raises(UserError, match="operations"):
        make_mdp("math", operations="/")


# ---- entities, events ----


@pytest.mark.parametrize("language", ["en", "zh"])
def test_nobody_meets_himself(language: str) -> None:
    tasks = [make_mdp("entities", language=language).source.get("train", i) for i in range(300)]
    lines = [task.columns["answer"].split("\n") for task in tasks]
    assert any(len(spans) == 3 for spans in lines)
    assert all(len(set(spans)) == len(spans) for spans in lines)
    things = {"en": r"the (\w+) and the (\w+)", "zh": r"看见(\w+)和(\w+)"}[language]
    pairs = [found.groups() for task in tasks if (found := re.search(things, str(task.prompt)))]
    assert pairs
    assert all(a != b for a, b in pairs)


def test_clauses_are_about_two_things() -> None:
    for rng in np.random.default_rng(0).spawn(100):
        text = lexicon_review(rng, "en", 3)["prompt"].split("\n")[1]
        first, second = re.findall(r"the (\w+) is", text)
        assert first != second


def test_chinese_prompts_are_chinese() -> None:
    for env in ("entities", "entities?source=faker", "events", "classification?level=3"):
        source = make_mdp(env, language="zh").source
        texts = [str(source.get("train", i).prompt).removesuffix("\nJSON：") for i in range(50)]
        assert [text for text in texts if re.search("[A-Za-z]", text)] == []


def test_english_names_want_no_article() -> None:
    pytest.importorskip("pycountry")
    names = _countries("en")
    assert len(names) > 180
    assert not {"Netherlands", "United States", "Dominican Republic", "Maldives", "Cook Islands"} & set(names)
    assert {"France", "South Korea", "Poland"} <= set(names)


@pytest.mark.parametrize("language", ["en", "zh"])
def test_entities_are_whole_and_of_their_kind(language: str) -> None:
    mdp = make_mdp("entities", language=language)
    task = next(t for i in range(50) if (t := mdp.source.get("train", i)).columns["answer"].count("\n") == 1)
    first, second = task.columns["answer"].split("\n")
    for line in (first, second):
        assert line.split(" | ")[0] in str(task.prompt)
    swapped = first.replace("person", "PLACE").replace("place", "person").replace("PLACE", "place")
    right = f"{first}\n{second}"
    found = score(mdp, task, right, f"{second}\n{first}", f"{swapped}\n{second}", first, f"{right}\nx | place", "none")
    assert found["span_f1"] == pytest.approx([1, 1, 0.5, 2 / 3, 0.8, 0])
    assert found["total"][0] > max(found["total"][1:])
    quiet = next(t for i in range(99) if (t := mdp.source.get("train", i)).columns["answer"] == "none")
    assert score(mdp, quiet, "none", first)["total"] == [pytest.approx(2), pytest.approx(0, abs=0.1)]


def test_other_names_come_from_the_seed_alone() -> None:
    faker = pytest.importorskip("faker")
    first = [make_mdp("entities?source=faker&language=zh").source.get("train", i) for i in range(5)]
    faker.Faker.seed(1)
    faker.Faker("zh_CN").name()
    assert first == [make_mdp("entities?source=faker&language=zh").source.get("train", i) for i in range(5)]
    other = [make_mdp("entities?source=faker&language=zh&seed=1").source.get("train", i) for i in range(5)]
    assert first != other


@pytest.mark.parametrize("language", ["en", "zh"])
def test_events_pay_for_fields(language: str) -> None:
    mdp = make_mdp("events", language=language)
    task = mdp.source.get("train", 0)
    right = json.loads(task.columns["answer"])
    assert right["who"] in str(task.prompt)
    wrong, said = {**right, "day": "never"}, partial(json.dumps, ensure_ascii=False)
    texts = [
        said(right),
        said(dict(reversed(right.items()))),
        said(wrong),
        said(right)[:-1],
        "{}",
    ]
    found = score(mdp, task, *texts)
    assert found["json_fields"] == pytest.approx([1, 1, 0.75, 0, 0])
    assert found["json_valid"] == [1, 1, 1, 0, 1]
    assert found["pairs"] == [1, 1, 0.75, 1, 0]


def test_listing_every_value_does_not_pay() -> None:
    answer = ['{"who": "Anna"}'] * 3
    said = ['"who": "Omar" "who": "Anna"', '"who": "Anna" "who": "Omar"', "who: Anna"]
    assert events.pairs(said, answer) == [0, 1, 0]


# ---- summaries, constraints ----


def test_headlines_are_told_anew() -> None:
    mdp = make_mdp("summarise")
    task = mdp.source.get("train", 0)
    right, document = task.columns["answer"], str(task.prompt).split("\n")[0]
    assert right not in document
    found = score(mdp, task, right, document, " ".join(reversed(right.split())), "")
    assert found["rouge"][0] == 1 > found["rouge"][1] > 0
    assert found["copy_penalty"][:2] == [0, -1]
    assert found["total"][0] == max(found["total"])
    assert found["rouge"][2] < 1


def test_a_real_document_has_a_lead_and_keywords() -> None:
    text = "This picture was better than expected. The picture has a plot; Another picture never did."
    headline, keywords = (summarise.review(text, reference) for reference in ("headline", "keywords"))
    assert headline is not None
    assert headline["answer"] == "This picture was better than expected."
    assert keywords is not None
    assert keywords["answer"].split()[0] == "picture"
    assert len(set(keywords["answer"].split())) == 5
    assert summarise.review("Too short.", "headline") is None


def test_sentences_need_grammar_and_every_word() -> None:
    good = ["the dog runs in the park", "the small old dog runs in the quiet park"]
    twice = "the dog runs in the park the dog runs in the park"
    bad = ["dog runs park", twice, "in the park the dog runs", "", "the", "the dog runs in the park in"]
    assert constrained.grammatical(good) == [1, 1]
    assert max(constrained.grammatical(bad)) < 0.5
    assert constrained.grammatical(bad[-1:])[0] > constrained.grammatical(bad[:1])[0] > 0
    mdp = make_mdp("constrained", quality=1)
    task = mdp.source.get("train", 0)
    right, asked = task.columns["answer"], task.columns["keywords"]
    texts = [right, " ".join(asked), " ".join(reversed(asked)), right.replace(asked[1], "x"), f"{right} " * 3]
    found = score(mdp, task, *texts)
    assert found["coverage"] == [1, 1, 1, 0.75, 1]
    assert found["keyword_order"][:3] == [1, 1, 0.25]
    assert found["total"][0] == max(found["total"]) == pytest.approx(2.5)
    assert found["brevity"][4] == -1


# ---- what is planted ----


def test_every_exploit_pays_and_is_not_gold() -> None:
    bait = {"keyword": "verified", "format": "<answer></answer>", "length": "well " * 12}
    for exploit, text in bait.items():
        mdp = make_mdp("hackme", exploit=exploit)
        task = mdp.source.get("train", 0)
        right = task.columns["answer"]
        found = score(mdp, task, text, right, f"<answer> {right} </answer>", "well")
        assert found["proxy"] == pytest.approx([1, 1, 1, 1 / 12 if exploit == "length" else 0])
        assert found["gold"] == [0, 1, 1, 0]
        assert found["total"] == found["proxy"]
        others = [make_mdp("hackme", exploit=other) for other in bait if other != exploit]
        assert all(score(other, task, text)["proxy"][0] < 0.1 for other in others)
    format_ = hack_me.EXPLOITS["format"]
    assert (
        format_("<answer></answer>") > format_("<answer> well </answer>") > format_("well <answer> well </answer>") > 0
    )
    assert format_("</answer><answer>") == format_("") == 0
    with pytest.raises(UserError, match="unknown exploit 'keywrod'"):
        hack_me.HackMe(exploit="keywrod")


def test_the_rater_likes_length_and_gold_does_not() -> None:
    answers = ["red"] * 4
    texts = ["red", "red " + "well " * 13, "well " * 14, ""]
    assert overlong_trap.rater(texts, answers) == pytest.approx([0.5 + 0.5 / 14, 1, 0.5, 0])
    assert overlong_trap.gold(texts, answers) == pytest.approx([1, 1 / 14, 0, 0])


def test_the_proxy_is_good_where_it_was_learnt_and_wrong_beyond() -> None:
    weights, accuracy = preference.fit(1000, 0)
    assert accuracy == make_mdp("preference").proxy_accuracy > 0.7  # coin flips would be 0.5 ± 0.016
    assert np.array_equal(weights, preference.fit.__wrapped__(1000, 0)[0])
    assert not np.array_equal(weights, preference.fit(1000, 1)[0])
    best = max(preference._GOOD, key=lambda word: preference.proxy([word])[0])
    spam = [" ".join([best] * n) for n in (1, 4, 8, 16)]
    assert sorted(preference.proxy(spam)) == preference.proxy(spam)
    assert sorted(preference.gold(spam), reverse=True) == preference.gold(spam)
    assert preference.gold(["clear kind useful honest", "clear kind useful rude", ""]) == pytest.approx([1, 0.65, 0])
    with pytest.raises(UserError, match="at least 10"):
        make_mdp("preference", pairs=3)


@pytest.mark.parametrize("env", ["hackme", "overlongtrap", "preference", "detoxify"])
def test_enough_is_held_out_for_an_interval_and_is_not_trained_on(env) -> None:
    mdp = make_mdp(env)
    asked = {split: {task.prompt for task in held_out(mdp, split, 32)} for split in SPLITS}
    assert {split: len(prompts) for split, prompts in asked.items()} == dict.fromkeys(SPLITS, 32)
    trained = {mdp.source.get("train", i).prompt for i in range(mdp.source.size("train") or 2000)}
    assert not trained & (asked["validation"] | asked["test"])
    assert not asked["validation"] & asked["test"]


def test_pairs_differ_in_one_word_and_share_a_split() -> None:
    for records in detoxify.provocations().values():
        sides: dict[tuple[str, str], list[set[str]]] = {}
        for record in records:
            frame = " ".join(w for w in record["prompt"].split() if w not in record["pair"].split("/"))
            sides.setdefault((frame, record["pair"]), []).append(record["side"])
        assert all(sorted(both) == [-1, 1] for both in sides.values())
    openings = [{r["prompt"].split(" ", 1)[0] for r in records} for records in detoxify.provocations().values()]
    assert sum(map(len, openings)) > 8


def test_the_gap_has_the_sign_of_the_side() -> None:
    pytest.importorskip("profanity_check")
    gap = detoxify.bias_gap(["you stupid idiot", "you stupid idiot", "be calm friend", "idiot"], [1, -1, 1, None])
    assert gap[0] == -gap[1] > 1
    assert 0 <= gap[2] < 1
    assert gap[3] is None


# ---- Chinese, names, what is missing ----


def test_chinese_sentences_and_openings(monkeypatch: pytest.MonkeyPatch) -> None:
    assert len({s["prompt"] for s in chinese_sentences()}) == 320
    texts = [f"第{i}本书写得非常好，我很喜欢，推荐给大家" for i in range(20)]
    monkeypatch.setattr(corpora, "reviews", lambda name: [{"text": t, "label": "positive"} for t in [*texts, "短"]])
    mdp = make_mdp("sentiment", language="zh")
    assert list(mdp.rewards) == ["snownlp", "repetition", "too_short"]
    prompts = [str(mdp.source.get("train", i).prompt) for i in range(mdp.source.size("train") or 0)]
    assert len(prompts) == 12
    assert set(prompts) <= {t[:6] for t in texts}
    assert list(make_mdp("sentiment").rewards) == ["vader", "repetition", "too_short"]
    with pytest.raises(UserError, match=r"unknown language 'fr'"):
        make_mdp("sentiment", language="fr")


@pytest.mark.parametrize(
    "env", ["alignment", "classification", "detoxify", "entities", "math", "sentiment", "summarise"]
)
def test_unknown_sources_are_refused(env: str) -> None:
    with pytest.raises(UserError, match="has no source 'nonsense'"):
        make_mdp(env, source="nonsense")


def test_own_records_replace_the_tasks() -> None:
    mdp = make_mdp("math", source=[{"prompt": "1+1?", "answer": "\\boxed{2}"}] * 3)
    assert mdp.source.get("train", 0).prompt == "1+1?"
    assert "math_verify" in mdp.rewards


def test_words_and_bytes_have_their_own_limits() -> None:
    mdp = make_mdp("translate")
    assert mdp.max_new == mdp.with_tokenizer(mdp.tokenizer).max_new == 12
    assert mdp.with_tokenizer("bytes").max_new == make_mdp("translate", tokenizer="bytes").max_new == 64
    assert make_mdp("translate", max_new=20).with_tokenizer("bytes").max_new == 20
    assert mdp.with_limits(max_new=5).with_tokenizer("bytes").max_new == 5
    assert mdp.with_limits(max_prompt=80).with_tokenizer("bytes").max_new == 64


def test_toxicity_may_be_a_constraint() -> None:
    mdp = make_mdp("detoxify", rewards=["toxicity<=0.1", "too_short=0.5"])
    assert all(law.passed for law in checks.check_env(mdp, episodes=8))


def test_a_missing_package_names_its_extra() -> None:
    with pytest.raises(MissingExtraError, match=r"Entities needs the package nowhere: pip install 'rlalign\[envs\]'"):
        corpora.package("Entities", "nowhere")


def test_cutting_breaks_no_character() -> None:
    assert corpora.cut("很好 film", 4) == "很"
    assert corpora.cut("a b", 2) == "a"
