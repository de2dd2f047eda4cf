"""`headwater asyncapi`: a service as an AsyncAPI 3 document."""

from __future__ import annotations

import sys

import yaml

from headwater.cli.output import print_json
from headwater.cli.target import load_service


def run_asyncapi(target: str | None, api_version: str | None, *, json_output: bool) -> int:
    """Print the document of the service that the target names; returns the exit status."""
    from headwater.service import asyncapi_document

    service = load_service(target)
    document = asyncapi_document(service, api_version=api_version) if api_version else asyncapi_document(service)
    if json_output:
        print_json(document)
    else:
        yaml.dump(document, sys.stdout, _Plain, sort_keys=False, allow_unicode=True, width=120)
    return 0


class _Plain(yaml.SafeDumper):
    """Writes everything out, instead of pointing to where it stood before."""

    def ignore_aliases(self, data: object) -> bool:  # noqa: ARG002 - yaml calls it so
        return True
