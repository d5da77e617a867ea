"""The documentation: true, though bodies are read as bytes, and there with no way out to a CDN."""

import re
from pathlib import Path
from typing import Any

from service.wire import RankRequest
from tests.service.toy import toy


def references(value: Any) -> set[str]:
    """Every schema that the document refers to."""
    if isinstance(value, dict):
        found = set().union(*(references(inner) for inner in value.values()))
        return found | ({value["$ref"]} if isinstance(value.get("$ref"), str) else set())
    return set().union(*(references(inner) for inner in value)) if isinstance(value, list) else set()


async def test_the_document_describes_the_bodies(tmp_path: Path) -> None:
    """The schema of a request with all its fields and examples, and of the answer."""
    async with toy(tmp_path) as service:
        document = (await service.client.get("/openapi.json")).json()
    operation = document["paths"]["/v1/rank"]["post"]
    for content in (operation["requestBody"]["content"], operation["responses"]["200"]["content"]):
        assert content.keys() == {"application/json", "application/msgpack"}
        assert content["application/json"] == content["application/msgpack"]
    body = operation["requestBody"]["content"]["application/json"]["schema"]
    assert body == {"$ref": "#/components/schemas/RankRequest"}
    schema = document["components"]["schemas"]["RankRequest"]
    assert schema["properties"].keys() == RankRequest.model_fields.keys()
    assert schema["required"] == ["candidates"]
    for example in schema["examples"]:
        RankRequest.model_validate(example)
    assert operation["responses"]["200"]["content"]["application/json"]["schema"]["$ref"].endswith(
        "RankResponse"
    )
    assert operation["responses"]["429"]["content"]["application/json"]["schema"]["$ref"].endswith(
        "FaultResponse"
    )
    known = {f"#/components/schemas/{name}" for name in document["components"]["schemas"]}
    assert references(document) <= known
    assert "HTTPValidationError" not in document["components"]["schemas"]  # FastAPI's own, never sent


async def test_operators_routes_are_marked(tmp_path: Path) -> None:
    """The page asks for a token there, and nowhere else."""
    async with toy(tmp_path) as service:
        paths = (await service.client.get("/openapi.json")).json()["paths"]
    secured = {
        route for route, methods in paths.items() for method in methods.values() if "security" in method
    }
    assert secured == {
        "/v1/rankers/{name}", "/v1/rankers/{name}/rollback", "/v1/workers", "/v1/features/{table}"
    }  # fmt: skip


async def test_the_page_needs_no_other_host(tmp_path: Path) -> None:
    """Every script and style sheet comes from the service itself."""
    async with toy(tmp_path) as service:
        page = await service.client.get("/docs")
        assert page.status_code == 200
        assets = re.findall(r'(?:src|href)="([^"]+)"', page.text)
        assert assets
        for asset in assets:
            assert asset.startswith("/")
            assert (await service.client.get(asset)).status_code == 200
