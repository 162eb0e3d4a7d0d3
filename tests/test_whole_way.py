"""One artist's whole way through the page in a real browser, on the built-in base: twelve pictures,
some of them troubled, to a style given away and brought back."""

from __future__ import annotations

import io
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image, ImageDraw

from tests.test_page import (
    MINUTE,
    browser,
    free_port,
    opened,
    page_process,
    renamed,
    sync_api,
    unfolded,
    until,
)
from training import events
from training.style_files.reading import read_style

THINGS = (
    "red ball",
    "blue box",
    "green ring",
    "gold star",
    "black line",
    "pink dots",
    "brown house",
)


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    return tmp_path / "workspace"


@pytest.fixture
def page(workspace: Path) -> Iterator[sync_api.Page]:
    port = free_port()
    with (
        page_process("--port", str(port), "--workspace", str(workspace)) as process,
        browser() as chromium,
    ):
        process.stdout.readline()
        opened_page = chromium.new_page(viewport={"width": 1280, "height": 900})
        opened_page.set_default_timeout(MINUTE)
        opened_page.goto(f"http://127.0.0.1:{port}/")
        yield opened_page


def twelve(folder: Path) -> list[str]:
    """Seven things of their own, one of them again and smaller, one lying on its side by its EXIF,
    one more, and two that are broken.
    """
    folder.mkdir()
    rng = random.Random(0)

    def painted(i: int) -> Image.Image:
        picture = Image.new("RGB", (200, 160), "white")
        draw = ImageDraw.Draw(picture)
        for _ in range(9):
            x, y = rng.randrange(150), rng.randrange(110)
            shape = draw.ellipse if i % 2 else draw.rectangle
            shape(
                (x, y, x + rng.randrange(20, 50), y + rng.randrange(20, 50)),
                fill=tuple(rng.randrange(256) for _ in range(3)),
            )
        return picture

    for i, name in enumerate(THINGS):
        painted(i).save(folder / f"{name}.png")
    Image.open(folder / "red ball.png").resize((150, 120)).save(
        folder / "red ball again.jpg", quality=90
    )
    exif = Image.Exif()
    exif[0x0112] = 6  # its top is at the right
    painted(8).save(folder / "lying.jpg", exif=exif, quality=95)
    painted(9).save(folder / "last.webp")
    (folder / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nno picture")
    whole = io.BytesIO()
    painted(10).save(whole, "JPEG")
    (folder / "cut off.jpg").write_bytes(whole.getvalue()[: len(whole.getvalue()) // 2])
    return [str(path) for path in sorted(folder.iterdir())]


def test_from_twelve_pictures_to_a_style_that_was_given_away(
    page: sync_api.Page, workspace: Path, tmp_path: Path
) -> None:
    expect, dataset = sync_api.expect, workspace / "datasets" / "my-pictures"
    page.locator("#tour [data-tour=end]").click()

    # Upload: the two broken ones are named and left out
    files = twelve(tmp_path / "drawer")
    assert len(files) == 12
    page.locator("#upload input[type=file]").set_input_files(files)
    expect(page.locator("#pictures img")).to_have_count(10)
    for name in ("broken.png", "cut off.jpg"):
        expect(page.locator("#upload-report")).to_contain_text(name)

    # Mend: of the two that look the same the larger one stays; the one on its side stands upright
    alike = page.locator("#findings .finding.alike")
    expect(alike).to_contain_text("2 pictures that look the same")
    alike.get_by_role("button", name="Keep only red ball.png").click()
    expect(page.locator("#pictures img")).to_have_count(9)
    page.locator("#pictures").get_by_text("lying.jpg").click()
    expect(page.locator("#picture")).to_contain_text("160 × 200 px")

    # Caption: each picture in turn, then a word before all of them
    caption = page.locator("#caption textarea")
    names = sorted(
        path.name for path in dataset.iterdir() if path.suffix in (".png", ".jpg", ".webp")
    )
    before = "lying.jpg"
    for _ in names:
        page.locator("#next-picture").click()
        expect(page.locator("#picture")).not_to_contain_text(before)
        name = before = next(n for n in names if n in page.locator("#picture").inner_text())
        expect(caption).to_have_value("")
        caption.fill(f"a {Path(name).stem}")
        until(lambda name=name: (dataset / name).with_suffix(".txt").exists())
    unfolded(page, "#bulk", "Edit captions")
    page.locator("#bulk-words input, #bulk-words textarea").fill("toy")
    page.locator("#bulk-apply").click()
    until(
        lambda: all(
            (dataset / n).with_suffix(".txt").read_text() == f"toy, a {Path(n).stem}\n"
            for n in names
        )
    )

    # Train on the built-in base, reload in the middle, stop, go on to the end
    opened(page, "Train")
    expect(page.locator("#train-dataset input")).to_have_value("my-pictures")
    page.locator("#save-name input, #save-name textarea").fill("toys")
    page.locator("#data-trigger input, #data-trigger textarea").fill("toyish")
    page.locator("#optim-steps input").fill("60")
    page.locator("#optim-batch_size input").fill("1")
    page.get_by_role("button", name="Advanced settings").click()
    page.locator("#section-preview").get_by_role("button", name="Sample images").click()
    page.locator("#preview-every input").fill("0")
    page.locator("#section-report").get_by_role("button").first.click()
    page.locator("#report-minutes input").fill("0")
    page.locator("#start").click()
    run = workspace / "runs" / "toys"

    def steps():
        return [e.step for e in events.read(run / "events.jsonl") if isinstance(e, events.Stepped)]

    until(lambda: len(steps()) > 3, 120)
    page.reload()
    opened(page, "Train")
    expect(page.locator("#status")).to_contain_text("toys")
    page.locator("#stop").click()
    row = page.locator('#line li:has([data-run="toys"])')
    expect(row).to_contain_text("Stopped")
    reached = steps()[-1]
    assert reached < 60 and any((run / "checkpoints").glob("step-*"))
    row.locator('[data-do="retry"]').click()
    until(
        lambda: any(
            isinstance(e, events.Finished) and e.step == 60
            for e in events.read(run / "events.jsonl")
        ),
        240,
    )
    assert steps().count(reached) == 1  # nothing was made twice
    expect(page.locator("#status .finished")).to_be_visible()

    # Compare with the base
    opened(page, "Compare")
    page.locator("#compare-prompts textarea").fill(
        "a toy, red apple"
    )  # at once: the style's own prompts, when they come, leave it alone
    expect(page.locator("#style-1 input")).to_have_value("toys · say “toyish” · rank 16")
    page.locator("#compare-steps input").fill("4")
    page.locator("#draw").click()
    expect(page.locator("#grid .comparison .open")).to_have_count(2, timeout=3 * MINUTE)

    # The style mixed with one of its own checkpoints, kept
    page.locator("#more-styles").click()
    page.locator("#style-2 input").click()
    page.get_by_role("option").nth(1).click()
    unfolded(page, "#mix", "Mix styles")
    page.locator("#mix-1 input[type=number]").fill("0.5")
    page.locator("#keep-mix").click()
    expect(page.get_by_text("Give two styles a weight above 0 first")).to_be_visible()
    page.locator("#mix-2 input[type=number]").fill("0.25")
    page.locator("#keep-mix").click()
    until(lambda: any((workspace / "styles").glob("*.safetensors")))
    (kept,) = (workspace / "styles").glob("*.safetensors")
    kept.unlink()

    # Give it away, delete it, bring it back
    opened(page, "Styles")
    page.locator("#shelf").get_by_text("toys").first.click()
    page.locator("#share").get_by_role("button", name="Publish").click()
    expect(page.locator("#published")).to_contain_text("toyish")
    page.locator("#make-file").click()
    with page.expect_download() as download:
        page.locator("#download-shared").click()
    given = renamed(download.value.path())
    shared = read_style(given)
    assert shared.trigger == "toyish" and not shared.warnings
    page.locator("#delete-style").click()
    expect(page.locator("#shelf .thumb")).to_have_count(0)
    page.locator("#bring-style input[type=file]").set_input_files(str(given))
    expect(page.locator("#shelf .thumb")).to_have_count(1)
    (brought,) = (workspace / "styles").glob("*.safetensors")
    assert read_style(brought).modules.keys() == shared.modules.keys()
