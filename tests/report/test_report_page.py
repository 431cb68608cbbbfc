"""The report page says what was reached, escapes what it is told, and draws in a real browser."""

import re
import struct
import subprocess
import zlib

import pytest

from ptycho.errors import WorkError
from ptycho.report.html import (
    KeyNumber,
    ReportData,
    ReportFigure,
    Setting,
    all_warnings,
    duration_words,
    key_numbers,
    render_report,
    verdict,
    write_report,
)
from tests.requirements import require


def png(width=40, height=30):
    """A small grey picture, written by hand."""

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    rows = b"".join(b"\0" + bytes(range(100, 100 + width)) for _ in range(height))
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def full_report():
    return ReportData(
        title="siemens-star",
        summary="Refined by rPIE for 20 epochs.",
        n_frames=516,
        r_factor=0.163,
        flat_r_factor=0.271,
        resolution_px=1.31,
        resolution_m=2.7e-8,
        phase_rmse_rad=0.041,
        flat_phase_rmse_rad=0.277,
        amplitude_psnr_db=36.2,
        deviance=1.08,
        warnings=("The half scans share a probe.",),
        key_numbers=(KeyNumber(label="Patterns per second", value="512"),),
        figures=(ReportFigure.standard("object_phase", png()), ReportFigure.standard("diffraction", png(100, 30))),
        stage_times_s={"train": 185.0, "refine": 4.2},
        configuration=(
            Setting(key="training.nepochs", value="20", source="spec"),
            Setting(key="training.batch_size", value="16", source="default"),
        ),
        assumptions=("Positions are pixels.",),
        versions={"numpy": "2.4"},
        provenance={"scan": "star.h5"},
    )


def test_the_verdict_states_what_was_reached():
    assert verdict(full_report()) == (
        "R-factor 0.163 on 516 frames (a constant object: 0.271); half scans agree down to a half period of 1.31 px"
        " (27 nm); phase error 0.041 rad against the truth."
    )


def test_the_verdict_of_an_unmeasured_image_says_so():
    assert verdict(ReportData(title="x")) == "The image was made; nothing about it was measured."


def test_a_verdict_without_pixel_size_speaks_of_pixels():
    assert verdict(ReportData(title="x", resolution_px=2.0)).endswith("half period of 2.00 px.")


@pytest.mark.parametrize(
    "data",
    [
        ReportData(title="x", r_factor=0.27, flat_r_factor=0.271),
        ReportData(title="x", phase_rmse_rad=0.3, flat_phase_rmse_rad=0.277),
    ],
)
def test_a_result_no_better_than_a_constant_object_is_called_so(data):
    assert "no better than a constant object" in all_warnings(data)[0]
    assert "no better than a constant object" in render_report(data)


def test_a_diverged_result_is_called_so():
    assert "diverged" in all_warnings(ReportData(title="x", r_factor=float("nan")))[0]


def test_a_good_result_has_only_the_warnings_given():
    assert all_warnings(full_report()) == ("The half scans share a probe.",)


def test_the_numbers_table_holds_what_was_measured_and_what_was_given():
    rows = {row.label: row.value for row in key_numbers(full_report())}
    assert rows == {
        "R-factor": "0.1630",
        "Deviance per pixel": "1.08",
        "Half-period resolution": "1.31 px (27 nm)",
        "Phase error (RMS)": "0.0410 rad",
        "Amplitude PSNR": "36.2 dB",
        "Patterns per second": "512",
    }


def test_the_page_tells_everything():
    page = render_report(full_report())
    for words in (
        "siemens-star",
        "Refined by rPIE",
        "3 min 5 s",
        "training.nepochs",
        "Positions are pixels.",
        "star.h5",
    ):
        assert words in page
    assert page.count("<img ") == 2


def test_a_page_with_a_title_alone_is_whole():
    page = render_report(ReportData(title="x"))
    assert page.rstrip().endswith("</html>")
    assert "<img" not in page and "<h2>" not in page


def test_text_from_data_is_escaped():
    evil = "<script>alert(1)</script>"
    data = ReportData(
        title=evil,
        summary=evil,
        warnings=(evil,),
        assumptions=(evil,),
        configuration=(Setting(key=evil, value=evil, source=evil),),
        figures=(ReportFigure(name="a", title='"' + evil, png=png(), caption=evil),),
        versions={evil: evil},
    )
    assert "<script" not in render_report(data)


def test_the_page_loads_nothing_from_elsewhere():
    page = render_report(full_report())
    assert not re.search(r"""(src|href)=["'](?!data:)""", page)
    assert "http" not in page.replace("http-equiv", "")


def test_the_page_is_written_whole_or_not_at_all(tmp_path):
    write_report(full_report(), tmp_path / "report.html")
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]
    with pytest.raises(WorkError, match="Cannot write"):
        write_report(full_report(), tmp_path / "missing" / "report.html")


def test_something_else_than_a_picture_is_refused():
    with pytest.raises(ValueError, match="'a' holds no PNG"):
        render_report(ReportData(title="x", figures=(ReportFigure(name="a", title="", png=b"GIF89a", caption=""),)))


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.83, "0.8 s"), (9.96, "10 s"), (42.2, "42 s"), (59.7, "1 min 0 s"), (185, "3 min 5 s"), (7800, "2 h 10 min")],
)
def test_durations_are_said_in_words(seconds, words):
    assert duration_words(seconds) == words


def browse(path, profile, *arguments):
    """What headless Chromium writes when it opens a page: standard output and error."""
    command = [
        require("chromium"), "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
        "--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage",
        "--enable-logging=stderr", "--v=0", f"--user-data-dir={profile}", *arguments, path.as_uri(),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    return done.stdout, done.stderr


def page_with_drawn_figures(path):
    from tests.report.test_figures import drawn

    figures = tuple(ReportFigure.standard(name, picture) for name, picture in drawn().items())
    write_report(ReportData(title="drawn", figures=figures, r_factor=0.1), path)
    return len(figures)


@pytest.mark.slow
def test_a_browser_draws_every_figure_and_its_console_is_silent(tmp_path):
    report = tmp_path / "report.html"
    n_figures = page_with_drawn_figures(report)
    picture = tmp_path / "page.png"
    _, log = browse(report, tmp_path / "profile", "--window-size=1280,2400", f"--screenshot={picture}")
    assert "CONSOLE" not in log
    assert picture.stat().st_size > 50_000

    # The page allows no script, so a copy without that rule asks each picture for its size.
    asked = tmp_path / "asked.html"
    script = (
        "<script>addEventListener('load', () => document.title = 'widths '"
        " + [...document.images].map(image => image.naturalWidth).join(' '))</script></body>"
    )
    page = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", report.read_text(encoding="utf-8"))
    asked.write_text(page.replace("</body>", script), encoding="utf-8")
    document, log = browse(asked, tmp_path / "profile2", "--virtual-time-budget=5000", "--dump-dom")
    widths = [int(width) for width in re.search(r"<title>widths ([\d ]*)</title>", document)[1].split()]
    assert len(widths) == n_figures and min(widths) > 300


@pytest.mark.slow
def test_the_browser_check_would_notice_a_page_that_complains(tmp_path):
    page = tmp_path / "bad.html"
    page.write_text("<html><body><script>undefined_name()</script></body></html>")
    _, log = browse(page, tmp_path / "profile", "--dump-dom")
    assert "CONSOLE" in log
