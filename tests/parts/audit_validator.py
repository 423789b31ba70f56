"""Checks lines of JSON from a file: against a JSON Schema of ours, or each against the schema of its OCSF class.

Prints what is wrong, a line for each, and then {"lines": N, "wrong": N}. Exits with 0 if nothing is wrong, else with 1.
"""

import copy
import json
import sys
from functools import cache

import jsonschema
from ocsf_json_schema import OcsfJsonSchemaEmbedded, get_ocsf_schema
from part import DONE, REFUSED, arguments, parse, say


def strict(schema: dict) -> dict:
    """Readers pass over keys that they do not know; a test does not."""
    schema = copy.deepcopy(schema)
    for kind in schema["oneOf"]:
        kind["additionalProperties"] = False
    return schema


@cache
def ocsf_validator(version: str, class_uid: int):
    schemas = OcsfJsonSchemaEmbedded(get_ocsf_schema(version=version))
    name = schemas.lookup_class_name_from_uid(class_uid=class_uid)
    return jsonschema.Draft202012Validator(schemas.get_class_schema(class_name=name))


def main() -> int:
    parser = arguments(__doc__)
    parser.add_argument("--schema", help="a JSON Schema of ours; without it lines are OCSF")
    parser.add_argument("file")
    parsed = parse(parser)
    own = None
    if parsed.schema:
        with open(parsed.schema) as file:
            own = jsonschema.Draft202012Validator(strict(json.load(file)), format_checker=jsonschema.FormatChecker())
    count = wrong = 0
    with open(parsed.file) as lines:
        for line in lines:
            value = json.loads(line)
            validator = own or ocsf_validator(value["metadata"]["version"], value["class_uid"])
            count += 1
            for error in validator.iter_errors(value):
                wrong += 1
                causes = [
                    cause.message
                    for cause in error.context
                    if value.get("event") and cause.relative_schema_path[0] == own_place(own, value["event"])
                ]
                say({"line": count, "error": error.message[:300], "causes": causes, "value": line[:600]})
    say({"lines": count, "wrong": wrong})
    return REFUSED if wrong or not count else DONE


def own_place(validator, event: str) -> int:
    """Which of the alternatives is the one of this event: what the others say is no help."""
    titles = [kind["title"] for kind in validator.schema["oneOf"]]
    return titles.index(event) if event in titles else -1


if __name__ == "__main__":
    sys.exit(main())
