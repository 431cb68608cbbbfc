"""The JSON schema of job specs, for editors that complete and check TOML."""

from __future__ import annotations

import json
from typing import Any

from ptycho.jobs.binding import spec_model
from ptycho.jobs.engines import job_engines


def schema() -> dict[str, Any]:
    """The schema, with the engines that exist."""
    content = spec_model().model_json_schema()
    content["$defs"]["job"]["properties"]["engine"]["enum"] = list(job_engines())
    content["title"] = "ptycho job spec"
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **content}


def schema_text() -> str:
    """The text of jobs/spec.schema.json."""
    return json.dumps(schema(), indent=1, ensure_ascii=False) + "\n"
