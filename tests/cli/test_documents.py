import tomllib

from ptycho.cli.document import documents, stale_documents
from ptycho.jobs.binding import TABLES
from ptycho.jobs.schema import schema
from ptycho.jobs.spec import load_spec
from tests.jobs.small_runs import ROOT

SPECS = sorted((ROOT / "jobs").glob("*.toml"))


def test_generated_documents_are_what_the_code_says():
    assert stale_documents() == []


def test_the_demo_asks_for_two_ranks_and_a_scan_that_ships():
    demo = load_spec(ROOT / "jobs" / "demo.toml")
    assert demo.resources.ranks_per_node == 2
    assert (ROOT / "jobs" / "data" / "siemens-star.h5").samefile(demo.data.scan)


def test_every_key_is_documented():
    page = documents()[ROOT / "docs" / "job-spec.md"]
    for name, table in TABLES.items():
        section = page.partition(f"## [{name}]\n")[2].partition("\n## ")[0]
        rows = {line.split("`")[1]: line for line in section.splitlines() if line.startswith("| `")}
        assert rows.keys() == table.defaults.keys()
        assert all(line.split("|")[-2].strip() for line in rows.values()), name


def test_the_schema_names_every_table_and_forbids_others():
    content = schema()
    assert content["additionalProperties"] is False
    assert set(content["properties"]) == set(TABLES)
    assert content["$defs"]["training"]["properties"]["batch_size"]["minimum"] == 1


def test_example_specs_use_only_keys_that_the_schema_has():
    for path in SPECS:
        for table, values in tomllib.loads(path.read_text()).items():
            assert values.keys() <= schema()["$defs"][table]["properties"].keys()
