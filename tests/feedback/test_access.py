"""Access to routes: scopes, other people's tokens, CSRF, sizes, rates, headers, and hostile texts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import sqlalchemy as sa
from fastapi.routing import APIRoute
from starlette.testclient import TestClient

from rlalign.feedback import tables
from rlalign.feedback.people import digest, invite
from rlalign.feedback.progress import votes
from rlalign.feedback.store import Store
from rlalign.feedback.web.access import COOKIE, SCOPES
from rlalign.feedback.web.app import make_app
from rlalign.feedback.web.server import Limits
from tests.feedback.conftest import CHECK, Client, check_places

Open = Callable[..., Store]
pytestmark = pytest.mark.parametrize("location", ["sqlite"], indirect=True)
HOSTILE = (
    "<script>alert(1)</script><img src=x onerror=alert(1)> [x](javascript:alert(1)) {{ 7*7 }} '; DROP TABLE vote; -- "
    "\u202e\ud7ff\x1b[31m"
)


def routes(app: Any) -> list[APIRoute]:
    """Return all routes of an application."""
    found: list[APIRoute] = []

    def walk(items: Any) -> None:
        for route in items:
            if isinstance(route, APIRoute):
                found.append(route)
            elif hasattr(route, "original_router"):
                walk(route.original_router.routes)

    walk(app.fastapi.routes)
    return found


def test_each_route_has_a_scope(open_study: Open) -> None:
    app = make_app(open_study())
    served = {(method, path) for path, operations in _operations(app).items() for method in operations}
    assert served == set(SCOPES)


def _operations(app: Any) -> dict[str, set[str]]:
    """Return the methods of each path that the application serves."""
    paths: dict[str, set[str]] = {}
    for route in routes(app):
        paths.setdefault(route.path, set()).update((route.methods or set()) - {"HEAD"})
    return paths


@pytest.mark.parametrize("scope", ["annotator", "admin"])
def test_no_route_is_open_to_another_scope(scope: str, open_study: Open) -> None:
    store = open_study()
    app = make_app(store, Limits(0, 1, 0))
    client = Client(store, scope, app)
    stranger = TestClient(app, follow_redirects=False)
    for (method, path), wanted in SCOPES.items():
        if wanted in ("public", scope):
            continue
        for http in (client.http, stranger):
            headers = {"X-CSRF": client.csrf}
            answer = http.request(method, path.replace("{token}", "x"), headers=headers, json={})
            # a refused body may come first: nothing is carried out in either case
            assert answer.status_code in (401, 403, 422), (method, path, answer.status_code)
    assert store.read(lambda c: c.execute(sa.select(tables.study.c.state)).scalar_one()) == "open"


def test_a_post_without_the_token_or_from_another_site_is_refused(open_study: Open) -> None:
    store = open_study()
    client = Client(store)
    client.begin()
    assert client.http.post("/api/next", json={}).status_code == 403
    assert client.http.post("/api/next", json={}, headers={"X-CSRF": "0" * 32}).status_code == 403
    assert client.http.post("/vote", data={"csrf": "no", "lease": "1", "choice": "a"}).status_code == 403
    other = {"X-CSRF": client.csrf, "Origin": "https://evil.example"}
    assert client.http.post("/api/next", json={}, headers=other).status_code == 403
    assert client.http.post(f"/j/{client.link.token}", headers={"Origin": "null"}).status_code == 403
    own = {"X-CSRF": client.csrf, "Origin": "http://testserver"}
    assert client.http.post("/api/next", json={}, headers=own).status_code == 200


def test_the_token_of_another_person_does_not_fit(open_study: Open) -> None:
    store = open_study()
    app = make_app(store, Limits(0, 1, 0))
    one, two = Client(store, app=app), Client(store, app=app)
    one.begin()
    two.begin()
    assert one.http.post("/api/next", json={}, headers={"X-CSRF": two.csrf}).status_code == 403
    item = one.api("next")
    assert two.api("vote", {"lease": item["lease"], "choice": "a"}, 404)
    check_places(store)


def test_a_link_is_opened_by_a_button(open_study: Open) -> None:
    """A mail scanner that follows the link signs nobody in, and the answer to a button sets the cookie."""
    store = open_study()
    (link,) = store.write(lambda c: invite(c, 1, None)).result()
    http = TestClient(make_app(store, Limits(0, 1, 0)), follow_redirects=False)
    page = http.get(link.path)
    assert page.status_code == 200
    assert not page.cookies
    assert f'action="{link.path}"' in page.text
    answer = http.post(link.path)
    assert answer.status_code == 303
    set_cookie = answer.headers["set-cookie"].lower()
    assert "httponly" in set_cookie
    assert "samesite=strict" in set_cookie
    assert "secure" not in set_cookie
    assert (
        "secure"
        in TestClient(make_app(store, secure=True))
        .post(link.path, follow_redirects=False)
        .headers["set-cookie"]
        .lower()
    )
    assert http.get("/").status_code == 200
    stored = store.read(lambda c: c.execute(sa.select(tables.cookie.c.hash)).scalars().all())
    assert digest(http.cookies[COOKIE]) in stored
    for wrong in ("/j/unknown", "/admin" + link.path):
        assert http.get(wrong).status_code == 404


def test_every_answer_has_the_headers(open_study: Open) -> None:
    client = Client(open_study())
    for path in ("/", "/j/none", "/api/me", "/static/page.js", "/none", "/admin", "/health"):
        headers = client.http.get(path).headers
        policy = headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "same-origin"
        if not path.startswith("/static"):
            assert headers["cache-control"] == "no-store"


def test_large_bodies_are_refused(open_study: Open) -> None:
    client = Client(open_study())
    large = b"x" * 10_000_000
    headers = {"X-CSRF": client.csrf, "Content-Type": "application/json"}
    assert client.http.post("/api/vote", content=large, headers=headers).status_code == 413
    chunks = (large[i : i + 65536] for i in range(0, len(large), 65536))  # without a length
    assert client.http.post("/api/vote", content=chunks, headers=headers).status_code == 413
    form = {"X-CSRF": client.csrf, "Content-Type": "application/x-www-form-urlencoded"}
    assert client.http.post("/vote", content=large, headers=form).status_code == 413


def test_a_person_who_asks_too_often_waits(open_study: Open) -> None:
    store = open_study()
    app = make_app(store, Limits(per_second=0.001, burst=5, sign_in_per_second=0.001))
    client, other = Client(store, app=app), Client(store, app=app)
    codes = [client.http.get("/api/me").status_code for _ in range(8)]
    assert codes == [200] * 5 + [429] * 3
    assert other.http.get("/api/me").status_code == 200  # the limit is per person
    stranger = TestClient(app)
    assert [stranger.get("/j/x").status_code for _ in range(30)].count(429) == 10


def test_hostile_texts_are_nothing_but_text(open_study: Open, tmp_path: Any) -> None:
    import json

    from rlalign.feedback.sampling import make_store, sample
    from rlalign.feedback.study import read_study

    rows = [{"prompt": HOSTILE, "policy": p, "completion": HOSTILE + p} for p in ("<b>one</b>", "two")]
    (tmp_path / "hostile.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows), encoding="utf-8")
    (tmp_path / "hostile.toml").write_text('name = "<script>x</script>"\ncompletions = "hostile.jsonl"\n')
    study = read_study(tmp_path / "hostile.toml")
    make_store(tmp_path / "hostile.db", study, tmp_path, sample(study, tmp_path))
    with Store(tmp_path / "hostile.db") as store:
        client, admin = Client(store), Client(store, "admin")
        client.begin()
        task = client.http.get("/").text
        client.vote("a", comment=HOSTILE)
        texts = [task, admin.http.get("/admin").text]
        assert "{{ 7*7 }}" in texts[0]
        for text in texts:
            assert "<script>alert" not in text
            assert "<script>x" not in text
            assert "<img" not in text
            assert "javascript:alert" not in text.replace("](javascript:alert", "")
        (row,) = store.read(lambda c: list(votes(c)))
        assert row["comment"] == HOSTILE


@pytest.mark.parametrize(
    "path",
    ["/static/..%2fapp.py", "/static/../app.py", "/static/%2e%2e/app.py", "/static/page.css%00", "/static//etc/passwd"],
)
def test_no_other_file_is_served(path: str, open_study: Open) -> None:
    assert TestClient(make_app(open_study())).get(path).status_code in (401, 403, 404)


@pytest.mark.parametrize("value", ["1 OR 1=1", "-1", "9" * 40, "1;DROP TABLE vote", "١", "", "0x1"])
def test_numbers_of_forms_are_numbers(value: str, open_study: Open) -> None:
    client, admin = Client(store := open_study()), Client(store, "admin")
    client.begin()
    client.api("next")
    client.form("/vote", 422, lease=value, choice="a")
    client.form("/undo", 422, vote=value)
    admin.form("/admin/revoke", 404, annotator=value)
    assert store.read(lambda c: c.execute(sa.select(tables.vote)).all()) == []


def test_a_paused_study_gives_no_items(open_study: Open) -> None:
    store = open_study()
    app = make_app(store, Limits(0, 1, 0))
    client, admin = Client(store, app=app), Client(store, "admin", app)
    client.begin()
    item = client.api("next")
    admin.form("/admin/pause")
    assert client.api("next", status=423)["error"]["code"] == "paused"
    assert client.http.get("/").status_code == 423
    # an item that was given before the pause can be answered
    client.api("vote", {"lease": item["lease"], "choice": "a"})
    admin.form("/admin/resume")
    client.api("vote", {"lease": item["lease"], "choice": "a"})


def test_links_are_shown_once(open_study: Open) -> None:
    store = open_study()
    admin = Client(store, "admin")
    answer = admin.form("/admin/invite", 200, count="2", days="14")
    assert answer.text.count("/j/") >= 2
    assert "/j/" not in admin.http.get("/admin").text.replace("/admin/j/", "")
    wrong_counts = [(count, "1") for count in ("0", "x", "501", "99999", "0000000000001234", "2" * 5000, "²", "")]
    wrong_days = [("1", days) for days in ("0", "-3", "3651", "0000019999", "2" * 5000, "²")]
    for count, days in wrong_counts + wrong_days:
        answer = admin.form("/admin/invite", 422, count=count, days=days)
        named, other = ("Number of links:", "Valid for days:")[:: 1 if days == "1" else -1]
        assert named in answer.text
        assert other not in answer.text
        assert 'href="/admin"' in answer.text
    assert store.read(lambda c: c.execute(sa.select(sa.func.count()).select_from(tables.annotator)).scalar_one()) == 3


def test_messages_to_the_administrator_are_not_those_for_annotators(open_study: Open) -> None:
    store = open_study()
    admin = Client(store, "admin")
    stranger = TestClient(make_app(store, Limits(0, 1, 0)))
    for path, status in (("/admin", 401), ("/admin/j/unknown", 404), ("/admin/none", 404)):
        page = stranger.get(path)
        assert page.status_code == status
        assert "rlalign feedback serve" in page.text
        assert "personal link" not in page.text
    unknown = admin.form("/admin/revoke", 404, annotator="999")
    assert "This annotator does not exist." in unknown.text
    assert 'href="/admin"' in unknown.text
    assert "personal link" in stranger.get("/").text


def test_a_malformed_form_has_its_own_message(open_study: Open) -> None:
    client = Client(open_study())
    answer = client.http.post("/vote", content=b"x", headers={"Content-Type": "multipart/form-data"})
    assert answer.status_code == 400
    assert "The form was incomplete or damaged." in answer.text


@pytest.mark.parametrize("path", ["/health", "/ready"])
def test_probes_may_ask_for_the_head_alone(path: str, open_study: Open) -> None:
    assert TestClient(make_app(open_study())).head(path).status_code == 200


def test_a_study_that_its_stop_rule_ended_cannot_be_paused(open_study: Open) -> None:
    store = open_study()
    admin = Client(store, "admin")

    def logged() -> list[str]:
        rows = store.read(lambda c: c.execute(sa.select(tables.event.c.what)).scalars().all())
        return [what for what in rows if what in ("pause", "resume")]

    for path in ("/admin/pause", "/admin/pause", "/admin/resume"):
        admin.form(path)
    assert logged() == ["pause", "resume"]  # the second pause had no effect
    store.write(lambda c: c.execute(sa.update(tables.study).values(state="complete"))).result()
    admin.form("/admin/pause")
    assert logged() == ["pause", "resume"]
    page = admin.http.get("/admin").text
    assert "ended by the stop rule" in page
    assert "/admin/pause" not in page
    assert "/admin/resume" not in page


def test_messages_of_other_roles_are_shown(open_study: Open) -> None:
    store = open_study()
    messages = '[{"role": "developer", "content": "Be short."}, {"role": "tool", "content": "42"}]'
    store.write(lambda c: c.execute(sa.update(tables.prompt).values(messages_json=messages))).result()
    client = Client(store)
    client.begin()
    page = client.http.get("/").text
    assert '<p class="role">developer</p>' in page
    assert '<p class="role">tool</p>' in page


def test_a_wrong_try_of_the_check_is_named(open_study: Open) -> None:
    client = Client(open_study(CHECK))
    client.begin()
    note = "The first try was not right. One try is left."
    assert note not in client.http.get("/").text
    client.vote("b")
    assert note in client.http.get("/").text
    client.vote("b")
    page = client.http.get("/").text
    assert "The check was not passed" in page
    assert 'href="/withdraw"' in page
    client.form("/withdraw", confirm="1")
    assert "You have withdrawn" in client.http.get("/").text


def test_an_undone_answer_is_filled_in(open_study: Open) -> None:
    """The comment of an undone vote is not lost, and the next item has none of it."""
    client = Client(open_study())
    client.begin()
    comment = "\nlong <b> & \u4e2d"
    vote = client.vote("a", comment=comment)["vote"]
    assert "long &lt;b&gt;" not in client.http.get("/").text
    client.form("/undo", vote=vote)
    page = client.http.get("/").text
    assert 'id="comment" open' in page
    assert page.count("(before)") == 1
    button = page[: page.index("(before)")].rpartition('name="choice" value=')[2]
    assert button.startswith('"a"')
    assert "\n\nlong &lt;b&gt; &amp; \u4e2d</textarea>" in page
    client.vote("b")
    assert "long &lt;b&gt;" not in client.http.get("/").text


def test_an_answer_can_be_undone_at_a_break(open_study: Open) -> None:
    client = Client(open_study("break_items = 1"))
    client.begin()
    vote = client.vote("a")["vote"]
    page = client.http.get("/").text
    assert "Continue" in page
    assert f'name="vote" value="{vote}"' in page
    client.form("/undo", vote=vote)
    assert "(before)" in client.http.get("/").text


def test_an_error_page_has_the_chosen_language(open_study: Open) -> None:
    store = open_study('languages = ["en", "zh"]')
    client = Client(store)
    client.begin()
    assert "The study is paused" in _paused_page(store, client)
    client.form("/language", language="zh")
    assert 'lang="zh' in _paused_page(store, client)


def _paused_page(store: Store, client: Client) -> str:
    store.write(lambda c: c.execute(sa.update(tables.study).values(state="paused"))).result()
    text: str = client.http.get("/").text
    store.write(lambda c: c.execute(sa.update(tables.study).values(state="open"))).result()
    return text


def test_scales_have_texts_in_each_language(open_study: Open) -> None:
    scale = '[[scales]]\nname = "help"\nlabel = { en = "Helpful", zh = "\u6709\u7528" }\nlow = "low"\n'
    client = Client(open_study(f'kind = "rating"\nlanguages = ["en", "zh"]\n{scale}'))
    client.begin()
    assert client.api("next")["scales"][0]["label"] == "Helpful"
    client.form("/language", language="zh")
    assert client.api("next")["scales"][0]["label"] == "\u6709\u7528"
    assert client.api("next")["scales"][0]["low"] == "low"


def test_long_texts_are_rendered_in_a_thread(open_study: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    import threading

    from rlalign.feedback.web import server

    threads: list[threading.Thread] = []
    original = server.Server.task

    def task(self: server.Server, content: Any, language: str) -> dict[str, Any]:
        threads.append(threading.current_thread())
        return original(self, content, language)

    monkeypatch.setattr(server.Server, "task", task)
    store = open_study()
    client = Client(store)
    client.begin()
    with client.http:  # one event loop for all requests
        short = client.api("next")
        client.http.get("/")
        store.write(lambda c: c.execute(sa.update(tables.completion).values(text="**long** " * 200))).result()
        long = client.api("next")
        client.http.get("/")
    assert threads[0] is threads[1]
    assert threads[0] not in threads[2:]
    assert short["lease"] == long["lease"]
    assert "<strong>long</strong>" in long["completions"][0]["html"]
