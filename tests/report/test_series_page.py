"""The page of a series: a row for each scan, nothing loaded from elsewhere, everything escaped."""

from ptycho.report.series import PageRow, SeriesPage, render_page

PNG = b"\x89PNG\r\n\x1a\n"


def page(*rows, **values):
    told = {"title": "beamtime", "headline": "1 finished", "collected": "2026-01-01T00:00:00.000Z", "is_complete": True}
    return render_page(SeriesPage(rows=rows, **told | values))


def test_a_finished_scan_shows_picture_numbers_and_a_link_to_its_report():
    text = page(
        PageRow(
            scan="a", file="/data/a.h5", status="finished", r_factor=0.12345, seconds=65.0, thumbnail=PNG,
            report="scans/a b/report.html",
        )
    )  # fmt: skip
    assert "1 scan: 1 finished." in text
    assert 'src="data:image/png;base64,' in text
    assert 'href="scans/a%20b/report.html"' in text
    assert "0.1235" in text
    assert "1 min 5 s" in text
    assert "Without an image" not in text
    assert "://" not in text


def test_a_failed_scan_shows_its_sentence_escaped_and_is_named_above_the_table():
    text = page(
        PageRow(scan="bad", file="/data/<bad>.h5", status="failed", error="no <frames>"),
        headline="1 failed", is_complete=False,
    )  # fmt: skip
    assert "no &lt;frames&gt;" in text
    assert "&lt;bad&gt;.h5" in text
    assert '<a href="#bad">bad</a>' in text
    assert '<body class="incomplete">' in text


def test_the_summary_gives_the_spread_of_what_was_reached():
    rows = [PageRow(scan=str(r), file="", status="finished", r_factor=r, seconds=10.0) for r in (0.3, 0.1, 0.2)]
    assert "R-factor 0.100 to 0.300, median 0.200; 10 s for a scan." in page(*rows)


def test_the_training_is_told_with_a_link_to_its_log():
    text = page(training="failed: The network did not learn.", training_log="train/logs/rank-0.log")
    assert "Training of the network: failed: The network did not learn (<a" in text
    assert 'href="train/logs/rank-0.log"' in text
