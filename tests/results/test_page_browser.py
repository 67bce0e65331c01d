"""Pages as a reader meets them: in a browser, from the disk and from `vlarig view`."""

from __future__ import annotations

import os
import re
import shutil
import threading
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from sample_runs import TASKS, hasty_ledger, make_episode, make_manifest, make_record, make_run

from vlarig.results.ledger import Ledger
from vlarig.results.pages.following import Follower
from vlarig.results.pages.reading import RunReader
from vlarig.results.pages.serving import PageServer
from vlarig.results.pages.site import Site, SiteOptions
from vlarig.results.pages.writing import write_site
from vlarig.results.records import NO_IMAGES, Attempt

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_spec("playwright") is None, reason="the package playwright is not installed"),
    pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium on this machine"),
]

NASTY = "<img src=x onerror=alert(1)>\"'&</script>"
FLIPPED = "tabletop/standard@1/stack/base/5/0"


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"] if os.getuid() == 0 else [])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> list[Path]:
    """Two runs over the same 180 episodes, the second by a policy with an ugly name and with errors; one episode is filmed."""
    folder = tmp_path_factory.mktemp("runs")
    first = make_run(folder / "expert", per_task=60, finished=60)
    make_manifest(60, policy=NASTY).save(folder / "random")
    with hasty_ledger(folder / "random") as ledger:
        for task in TASKS:
            for initial_state in range(58):
                ledger.write_episode(make_record(initial_state, task, success=initial_state % 5 != 0))
            ledger.write_attempt(Attempt(make_episode(58, task).key, 1, "crash", NASTY, "worker 0", gave_up=True))
    make_manifest(60, policy="other").save(folder / "other")
    with hasty_ledger(folder / "other") as ledger:
        for task in TASKS:
            for initial_state in range(60):
                ledger.write_episode(make_record(initial_state, task, success=initial_state % 5 != 0, image_digest=NO_IMAGES))
    (first / "videos").mkdir()
    if find_spec("av"):
        from vlarig.harness.film import FilmWriter

        steps = make_record(8).steps
        images = np.zeros((steps + 1, 64, 64, 3), np.uint8)
        images[:, :, :] = np.linspace(0, 255, steps + 1).astype(np.uint8)[:, None, None, None]
        film = FilmWriter(first / "videos" / f"{make_record(8).key.replace('/', '_')}.mp4", 20.0, "failure: stack")
        film.add({"ego": images})
        film.finish()
    return [first, folder / "random", folder / "other"]


@pytest.fixture(scope="module")
def site(tmp_path_factory, runs) -> str:
    out = tmp_path_factory.mktemp("pages") / "site"
    readers = [RunReader.open(run) for run in runs]
    write_site(Site(readers, SiteOptions()), out)
    for reader in readers:
        reader.close()
    return out.as_uri()


@pytest.fixture
def problems():
    """What the browser complains about; empty at the end of every test."""
    found: list[str] = []
    yield found
    assert not found


@pytest.fixture
def visit(browser, problems):
    """Opens an address in a page of its own."""
    contexts = []

    def open_page(address: str, **options):
        context = browser.new_context(**({"viewport": {"width": 1200, "height": 900}} | options))
        contexts.append(context)
        context.set_default_timeout(20_000)
        page = context.new_page()
        page.on("console", lambda message: problems.append(message.text) if message.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on(
            "requestfailed", lambda request: problems.append(f"{request.url} {request.failure}") if _failed(request) else None
        )
        page.on("dialog", lambda dialog: (problems.append(dialog.message), dialog.dismiss()))
        page.goto(address)
        return page

    yield open_page
    for context in contexts:
        context.close()


def _failed(request) -> bool:
    """Whether a request failed, and was not given up since the reader went elsewhere."""
    return "ERR_ABORTED" not in str(request.failure)


def shown_rows(page, table: str) -> list[list[str]]:
    return [row.all_inner_texts() for row in page.locator(f"{table} tbody tr:visible").all() for row in [row.locator("th,td")]]


PAGES = {
    "index": "index.html",
    "run": "run-random.html",
    "task": "task.html#expert/0",
    "episode": "episode.html#expert/tabletop/standard@1/stack/base/8/0",
    "error": "episode.html#random/tabletop/standard@1/stack/base/58/0",
    "compare": "compare-expert--other.html",
}


def ready(page) -> None:
    """Wait until the page's script has rendered what it renders."""
    page.wait_for_function("() => !document.getElementById('content') || !document.getElementById('content').hidden")
    page.wait_for_function("() => !document.getElementById('flips') || document.querySelector('#flips tbody tr')")


def test_from_the_first_page_down_to_an_episode(visit, site):
    page = visit(f"{site}/index.html")
    page.locator("#runs-table").get_by_role("link", name="expert", exact=True).click()
    assert page.title() == "expert – Results"
    page.get_by_role("link", name="push_to").click()
    ready(page)
    assert page.locator("h1").inner_text() == "push_to"
    assert "75.0 %" in page.locator("#lead").inner_text()
    page.get_by_role("link", name="3", exact=True).click()
    page.wait_for_url("**/episode.html**")
    ready(page)
    assert page.locator("h1").inner_text() == "push_to, initial state 3"
    assert "✓ success" in page.locator("#lead").inner_text()
    record = make_record(3, "push_to")
    assert record.state_digest in page.locator("#result").inner_text()
    assert page.locator("#plots svg").count() == 7
    page.get_by_role("link", name="Next episode").click()
    page.wait_for_function("() => document.querySelector('h1').textContent === 'push_to, initial state 4'")
    assert "✗ failure" in page.locator("#lead").inner_text()
    page.get_by_role("link", name="Next failure").click()
    page.wait_for_function("() => document.querySelector('h1').textContent === 'push_to, initial state 8'")
    page.go_back()
    page.wait_for_function("() => document.querySelector('h1').textContent === 'push_to, initial state 4'")


def test_a_list_is_narrowed_sorted_and_paged_and_remembers_it(visit, site):
    page = visit(f"{site}/task.html#expert/0")
    ready(page)
    assert page.locator("#count").inner_text() == "60 episodes"
    assert len(shown_rows(page, "#episodes")) == 50
    page.get_by_role("button", name="Next").click()
    assert len(shown_rows(page, "#episodes")) == 10
    page.get_by_label("Outcome").select_option("failure")
    assert page.locator("#count").inner_text() == "15 of 60 episodes"
    page.get_by_role("button", name="Steps").click()
    assert page.locator("th[aria-sort=ascending]").inner_text().startswith("Steps")
    page.get_by_role("button", name="Steps").click()
    assert page.locator("th[aria-sort=descending]").inner_text().startswith("Steps")
    steps = [int(row[2]) for row in shown_rows(page, "#episodes")]
    assert steps == sorted(steps, reverse=True)
    assert {row[1] for row in shown_rows(page, "#episodes")} == {"✗ failure"}
    first = shown_rows(page, "#episodes")[0][0]
    page.get_by_role("link", name=first, exact=True).click()
    page.wait_for_url("**/episode.html**")
    page.go_back()
    ready(page)
    assert page.locator("#count").inner_text() == "15 of 60 episodes"
    assert shown_rows(page, "#episodes")[0][0] == first


def test_the_slider_moves_film_curves_and_numbers(visit, site):
    pytest.importorskip("av")
    page = visit(f"{site}/{PAGES['episode']}")
    ready(page)
    record = make_record(8)
    page.wait_for_function("() => document.querySelector('video').duration > 0")
    page.get_by_role("slider", name="Step").focus()
    for _ in range(3):
        page.keyboard.press("ArrowRight")
    shown = page.locator("output").inner_text()
    assert shown.startswith(f"before step 4 of {record.steps}, chunk 1 of 2: x ")
    assert f"x {record.actions[3][0]:.3g}"[:5] in shown
    assert page.locator("#plots .cursor").first.get_attribute("x1") == "3"
    page.wait_for_function("() => !document.querySelector('video').seeking")
    fraction = page.evaluate("() => document.querySelector('video').currentTime / document.querySelector('video').duration")
    assert fraction == pytest.approx(3.5 / (record.steps + 1), abs=0.1 / (record.steps + 1))
    page.get_by_role("button", name="Next chunk").click()
    assert "before step 9 of 18, chunk 2 of 2, new:" in page.locator("output").inner_text()
    page.get_by_role("button", name="Next chunk").click()
    assert "the end" in page.locator("output").inner_text()
    page.get_by_text("The actions as a table").click()
    page.locator("#actions-table tbody tr").first.wait_for()
    cells = shown_rows(page, "#actions-table")
    assert len(cells) == record.steps and [row[1] for row in cells].count("new") == 2
    assert float(cells[5][2]) == pytest.approx(float(record.actions[5][0]), rel=2e-3)


def test_without_a_film_the_command_that_makes_one_is_shown(visit, site):
    page = visit(f"{site}/episode.html#other/tabletop/standard@1/stack/base/0/0")
    ready(page)
    assert page.locator("#film code").inner_text() == "vlarig runs replay other tabletop/standard@1/stack/base/0/0"


def test_names_that_look_like_markup_are_text(visit, site):
    page = visit(f"{site}/index.html")
    assert page.get_by_text(NASTY).count() >= 1
    page.goto(f"{site}/{PAGES['error']}")
    ready(page)
    assert NASTY in page.locator("#attempts").inner_text()
    assert NASTY in page.locator("#lead").inner_text()
    assert page.locator("main img").count() == 0


def test_addresses_that_lead_nowhere_say_so(visit, site, problems):
    for address, message in [
        ("task.html", "the address names no run"),
        ("task.html#expert/7", "expert has no task number 7"),
        ("episode.html#expert/tabletop/standard@1/stack/base/99/0", "expert has no result of"),
        ("episode.html#expert/tabletop/standard@1/none/base/0/0", "expert has no task tabletop/standard@1/none/base"),
        ("episode.html#..%2F..%2Fsecret/a/b/c/d/0/0", "the address names no episode"),
    ]:
        page = visit(f"{site}/{address}")
        page.get_by_role("alert").filter(has_text=message).wait_for()
    page = visit(f"{site}/task.html#unknown/0")
    page.get_by_role("alert").filter(has_text="data/unknown/run.js is not there").wait_for()
    assert all("unknown" in problem or "ERR_FILE_NOT_FOUND" in problem for problem in problems)
    problems.clear()


def test_a_leaderboard_sorts_and_narrows(visit, site):
    page = visit(f"{site}/index.html")
    section = page.locator("section", has=page.get_by_role("heading", name="tabletop, standard@1"))
    table = f"#{section.locator('table').get_attribute('id')}"
    rows = shown_rows(page, table)
    assert [row[0] for row in rows] == ["1", "2", "–"]
    assert rows[0][1].split() == ["other", "other"] and rows[2][1].startswith(NASTY) and rows[2][1].endswith("random")
    assert "incomplete (174 of 180)" in rows[2][2]
    section.get_by_role("button", name="Method").click()
    assert shown_rows(page, table)[0][1].startswith(NASTY)
    head = section.get_by_role("button", name="stack")
    head.focus()
    page.keyboard.press("Enter")
    assert head.locator("..").get_attribute("aria-sort") == "descending"
    page.keyboard.press("Enter")
    assert head.locator("..").get_attribute("aria-sort") == "ascending"
    assert shown_rows(page, table)[-1][1].startswith(NASTY)  # what is incomplete stays last, either way
    section.get_by_label("ranked only").check()
    assert section.get_by_role("status").inner_text() == "2 of 3 rows"
    section.get_by_label("Search").fill("expert")
    assert section.get_by_role("status").inner_text() == "1 of 3 rows"


def test_flipped_episodes_lead_to_both_runs(visit, site):
    page = visit(f"{site}/{PAGES['compare']}")
    ready(page)
    page.get_by_label("Which").select_option("lost")
    rows = shown_rows(page, "#flips")
    assert FLIPPED in {row[0] for row in rows} and {row[1] for row in rows} == {"lost"}
    page.locator("#flips tr", has_text=FLIPPED).get_by_role("link").nth(1).click()
    page.wait_for_url("**/episode.html#other/**")
    ready(page)
    assert "✗ failure" in page.locator("#lead").inner_text()
    elsewhere = page.get_by_role("navigation", name="The same episode in other runs")
    assert elsewhere.get_by_role("link").all_inner_texts() == ["expert", "random"]
    elsewhere.get_by_role("link", name="expert").click()
    page.locator("#lead", has_text="✓ success").wait_for()


@pytest.mark.parametrize("name", PAGES)
def test_a_phone_shows_it_without_scrolling_sideways(visit, site, name):
    page = visit(f"{site}/{PAGES[name]}", viewport={"width": 360, "height": 740}, device_scale_factor=2, is_mobile=True)
    ready(page)
    assert page.evaluate("() => document.documentElement.scrollWidth") <= 360
    outside = page.evaluate(
        "() => [...document.querySelectorAll('main *')].filter((e) => !e.closest('.wide, pre, svg') && e.getClientRects().length"
        " && e.getBoundingClientRect().right > 361).map((e) => e.outerHTML.slice(0, 80))"
    )
    assert outside == []


@pytest.mark.parametrize(("name", "columns"), [("index", 3), ("compare", 4), ("run", 2)])
def test_a_phone_shows_the_rates_beside_the_names(visit, site, name, columns):
    page = visit(f"{site}/{PAGES[name]}", viewport={"width": 390, "height": 844}, device_scale_factor=2, is_mobile=True)
    ready(page)
    tables = {"index": ".board", "compare": "#compared table", "run": "#tasks-table"}[name]
    cut = page.evaluate(
        "([tables, columns]) => [...document.querySelectorAll(`${tables} tr`)].flatMap((row) => [...row.cells].slice(0, columns))"
        ".filter((cell) => cell.getBoundingClientRect().right > 390).map((cell) => cell.textContent)",
        [tables, columns],
    )
    assert page.locator(tables).count() and cut == []


def test_an_expert_is_shown_by_its_rate_and_takes_no_rank(visit, tmp_path):
    runs = [make_run(tmp_path / "expert", policy_privileged=True), make_run(tmp_path / "mine", policy="mine", finished=10)]
    make_manifest(policy="poor").save(tmp_path / "poor")
    with Ledger.create(tmp_path / "poor") as ledger:
        for task in TASKS:
            for initial_state in range(10):
                ledger.write_episode(make_record(initial_state, task, success=False))
    readers = [RunReader.open(run) for run in (*runs, tmp_path / "poor")]
    write_site(Site(readers, SiteOptions()), tmp_path / "site")
    for reader in readers:
        reader.close()
    page = visit(f"{(tmp_path / 'site').as_uri()}/index.html")
    ranks = [(row[0], row[1].split()[0].rstrip("1")) for row in shown_rows(page, "#board-1-table")]
    assert ranks == [("–", "expert"), ("1", "mine"), ("2", "poor")]
    page.locator("#board-1").locator("..").get_by_role("button", name="stack").click()
    assert [(row[0], row[1].split()[0].rstrip("1")) for row in shown_rows(page, "#board-1-table")] == ranks


def test_who_competes_with_no_other_has_no_rank_by_any_column(visit, tmp_path):
    runs = [make_run(tmp_path / "expert", policy_privileged=True), make_run(tmp_path / "mine", policy="mine")]
    readers = [RunReader.open(run) for run in runs]
    write_site(Site(readers, SiteOptions()), tmp_path / "site")
    for reader in readers:
        reader.close()
    page = visit(f"{(tmp_path / 'site').as_uri()}/index.html")
    assert [row[0] for row in shown_rows(page, "#board-1-table")] == ["–", "–"]
    page.locator("#board-1").locator("..").get_by_role("button", name="stack").click()
    assert [row[0] for row in shown_rows(page, "#board-1-table")] == ["–", "–"]


def test_an_episode_says_what_it_asks_for_and_what_was_seen(visit, site):
    page = visit(f"{site}/{PAGES['episode']}")
    ready(page)
    assert page.locator("#instruction").inner_text() == "“stack number 8”"
    assert make_record(8).image_digest in page.locator("#result").inner_text()
    page.goto(f"{site}/episode.html#other/tabletop/standard@1/stack/base/8/0")
    page.locator("#result").get_by_text("none: the policy was shown no images").wait_for()
    assert NO_IMAGES not in page.locator("#result").inner_text()


def test_films_have_posters_on_their_pages_on_the_tasks_and_on_the_first(visit, site):
    pytest.importorskip("av")
    page = visit(f"{site}/{PAGES['task']}")
    ready(page)
    films = page.locator("#films li")
    assert [film.inner_text().split("\n\n") for film in films.all()] == [
        ["✗ failure initial state 8, 18 steps", "stack number 8"]
    ]
    poster = films.locator("video").get_attribute("poster")
    page.get_by_label("Outcome").select_option("success")
    page.locator("#films-section").wait_for(state="hidden")
    page.get_by_label("Outcome").select_option("failure")
    films.get_by_role("link", name="initial state 8").click()
    page.wait_for_url("**/episode.html**")
    ready(page)
    assert page.locator("#film video").get_attribute("poster") == poster == "media/expert/0-8-0.jpg"
    page.wait_for_function("() => document.querySelector('video').currentTime > 0")  # the first frame, as the slider says
    assert page.get_by_role("slider", name="Step").input_value() == "0"
    page.goto(f"{site}/index.html")
    page.get_by_role("link", name="expert: the end of stack, initial state 8: failure").click()
    page.wait_for_url("**/episode.html**stack/base/8/0")


@pytest.mark.parametrize("name", PAGES)
def test_the_keyboard_reaches_everything(visit, site, name):
    page = visit(f"{site}/{PAGES[name]}")
    ready(page)
    page.keyboard.press("Tab")
    assert page.evaluate("() => document.activeElement.textContent") == "Skip to the content"
    page.keyboard.press("Enter")
    assert page.evaluate("() => document.activeElement.id") == "main"
    page.evaluate("() => document.body.focus()")
    wanted = page.evaluate(
        "() => [...document.querySelectorAll('a[href], button, input, select, summary, video, [tabindex=\"0\"]')]"
        ".filter((e) => e.checkVisibility()).map((e, i) => { e.dataset.number = i; return i; })"
    )
    page.reload()
    ready(page)
    page.evaluate(
        "() => [...document.querySelectorAll('a[href], button, input, select, summary, video, [tabindex=\"0\"]')]"
        ".filter((e) => e.checkVisibility()).forEach((e, i) => { e.dataset.number = i; })"
    )
    reached = set()
    for _ in range(3 * len(wanted) + 20):
        page.keyboard.press("Tab")
        number, outlined = page.evaluate(
            "() => { const e = document.activeElement; const s = getComputedStyle(e);"
            " return [e.dataset.number ?? null, e.tagName === 'VIDEO' || e.tagName === 'BODY' || s.outlineStyle !== 'none']; }"
        )
        assert outlined
        if number is not None:
            reached.add(int(number))
        if len(reached) == len(wanted):
            break
    assert reached == set(wanted)


@pytest.mark.slow
@pytest.mark.parametrize("name", PAGES)
def test_axe_finds_nothing_in_light_and_dark(visit, site, name):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright")
    page = visit(f"{site}/{PAGES[name]}")
    ready(page)
    page.evaluate("() => document.querySelectorAll('details').forEach((e) => { e.open = true; })")
    for scheme, ground in (("light", "rgb(255, 255, 255)"), ("dark", "rgb(20, 23, 28)")):
        page.emulate_media(color_scheme=scheme)
        assert page.evaluate("() => getComputedStyle(document.documentElement).backgroundColor") == ground
        found = axe.Axe().run(page, options={"preload": False})  # what it would load again, the policy forbids
        assert found.violations_count == 0, f"{scheme}: {found.generate_report()}"


@pytest.mark.slow
def test_the_curve_of_a_training_fits_a_phone_and_has_words(visit, tmp_path):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright")
    evaluations = tmp_path / "ppo" / "evaluations"
    readers = [RunReader.open(make_run(evaluations / f"step-{step:08d}", finished=10 - step)) for step in (0, 1, 3)]
    write_site(Site(readers, SiteOptions()), tmp_path / "site")
    for reader in readers:
        reader.close()
    page = visit(
        f"{(tmp_path / 'site').as_uri()}/index.html",
        viewport={"width": 390, "height": 844},
        device_scale_factor=2,
        is_mobile=True,
    )
    ready(page)
    assert page.evaluate("() => document.documentElement.scrollWidth") <= 390
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        found = axe.Axe().run(page, options={"preload": False})
        assert found.violations_count == 0, f"{scheme}: {found.generate_report()}"
    page.locator(".training + .wide a", has_text="3").click()
    assert page.url.endswith("run-step-00000003.html")


def test_every_chart_has_words_and_every_table_a_caption(visit, site):
    for name in PAGES.values():
        page = visit(f"{site}/{name}")
        ready(page)
        assert page.evaluate(
            "() => [...document.querySelectorAll('svg[role=img]')].every((e) => e.querySelector('title')?.textContent)"
        )
        assert page.evaluate(
            "() => [...document.querySelectorAll('table')].every((e) => e.caption && e.querySelector('th[scope=col]'))"
        )
        assert page.evaluate("() => [...document.querySelectorAll('main, header, footer, nav[aria-label]')].length >= 4")


@pytest.mark.slow
def test_a_page_follows_the_run(visit, tmp_path, monkeypatch):
    monkeypatch.setattr("vlarig.results.pages.following.FRESH", 0.0)
    run = make_run(tmp_path / "expert", finished=5)
    follower = Follower(lambda: [run], SiteOptions(live=True), tmp_path / "site")
    with PageServer(follower, 0) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        try:
            site = server.url.partition("?")[0]
            index, task = visit(server.url), visit(f"{site}task.html?token={server.token}#expert/0")
            ready(task)
            index.locator("#follow").filter(has_text="15 of 30").wait_for()
            index.locator("form[data-filters=runs-table]").get_by_label("Search").fill("exp")
            index.locator("#runs-table").get_by_role("link", name="expert", exact=True).focus()
            task.get_by_label("Outcome").select_option("failure")
            assert task.locator("#count").inner_text() == "2 of 5 episodes"
            with Ledger.open(run) as ledger:
                ledger.write_episode(make_record(5, "stack", success=False))
                index.locator("#runs-table").get_by_text("16 of 30").wait_for()
                index.locator("#runs-table").get_by_text("being written").wait_for()
                task.locator("#count").filter(has_text="3 of 6 episodes").wait_for()
            assert index.locator("form[data-filters=runs-table]").get_by_label("Search").input_value() == "exp"
            assert index.evaluate("() => document.activeElement.textContent") == "expert"
            assert index.locator("#runs-table th button").count() == 7
            fresh = visit(f"{site}episode.html?token={server.token}#expert/tabletop/standard@1/stack/base/5/0")
            ready(fresh)
            assert re.match("stack, initial state 5", fresh.locator("h1").inner_text())
        finally:
            server.shutdown()
            thread.join()
            follower.close()
