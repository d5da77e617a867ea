"""Before the test: is the service there, which ids has it, and does it take such a request?"""

from __future__ import annotations

import asyncio
from typing import Any, NamedTuple

import orjson

from service.loadtest.client import Answer, NotHttp, Pool, Target
from service.loadtest.errors import LoadTestError
from service.loadtest.plan import Requests

USERS, ITEMS = 2_000, 5_000
"""So many ids, from "0" on, where the service does not tell: any synthetic world of the configs has them."""


class Catalogue(NamedTuple):
    """How many ids the service's version was trained with, from "0" on."""

    users: int
    items: int


async def ready(target: Target, ranker: str, timeout_s: float) -> Catalogue:
    """See that a service is ready and serves the ranker, and ask how many ids it has.

    Raises:
        LoadTestError: it is not, or has no such ranker; with what it said.
    """
    async with Pool(target, 1) as pool:
        answer = await _ask(pool, target, target.message("GET", "/readyz"), timeout_s)
        said = _read(answer, target)
        if answer.status != 200:
            why = "; ".join([f"{answer.status}", str(said.get("status", "unknown")), *_problems(said)])
            raise LoadTestError(f"{target} is not ready ({why}); GET {target}/readyz says when it is")
        rankers = said.get("rankers")
        if not isinstance(rankers, dict):
            raise LoadTestError(f"{target}/readyz tells of no rankers; is it a rankserve service?")
        if not rankers.get(ranker):
            raise LoadTestError(
                f"{target} serves no ranker {ranker!r}; name one with --ranker: {', '.join(rankers)}"
            )
        model = target.message("GET", f"/v1/models/{rankers[ranker]}")
        return _catalogue(_read(await _ask(pool, target, model, timeout_s), target))


async def try_one(target: Target, requests: Requests, seed: int, timeout_s: float) -> None:
    """Send one request. Raises LoadTestError where it gets no slate, with what the service said."""
    body = next(requests.bodies(seed))
    async with Pool(target, 1) as pool:
        answer = await _ask(pool, target, target.message("POST", "/v1/rank", body), timeout_s)
        said = _read(answer, target)
        if answer.status != 200:
            raise LoadTestError(f"{target} refused the first request with {answer.status}{_fault(said)}")


async def _ask(pool: Pool, target: Target, message: bytes, timeout_s: float) -> Answer:
    try:
        async with asyncio.timeout(timeout_s):
            return await pool.ask(message)
    except TimeoutError:
        raise LoadTestError(f"{target} did not answer within {timeout_s:g} s") from None
    except ConnectionRefusedError:
        raise LoadTestError(f"nobody listens at {target}; start a service with: rankserve serve") from None
    except (OSError, NotHttp) as error:
        raise LoadTestError(f"{target} cannot be asked: {error}") from None


def _read(answer: Answer, target: Target) -> dict[str, Any]:
    try:
        said = orjson.loads(answer.body)
    except orjson.JSONDecodeError:
        said = None
    if not isinstance(said, dict):
        raise LoadTestError(f"{target} answered {answer.status} with no JSON; is it a rankserve service?")
    return said


def _problems(said: dict[str, Any]) -> list[str]:
    """Why a service is not ready, as far as it says so: a proxy before it may say anything."""
    problems, failed = said.get("problems"), said.get("failed")
    reasons = [*problems] if isinstance(problems, list) else []
    reasons += failed.values() if isinstance(failed, dict) else []
    return [str(reason) for reason in reasons]


def _fault(said: dict[str, Any]) -> str:
    """What a service or a proxy has against a request."""
    fault = said.get("error", "with no reason")
    if not isinstance(fault, dict):
        return f": {fault}"
    where = f"{fault['field']}: " if fault.get("field") else ""
    return f" {fault.get('type', '')}: {where}{fault.get('message', '')}"


def _catalogue(model: dict[str, Any]) -> Catalogue:
    """A synthetic world's size stands in its config; of another log nothing tells which ids there are."""
    match model.get("training"):
        case {"dataset": {"name": "synthetic", "users": int(users), "videos": int(items)}}:
            return Catalogue(users, items)
    return Catalogue(USERS, ITEMS)
