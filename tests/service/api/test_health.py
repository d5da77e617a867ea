"""Liveness, readiness and metrics."""

from pathlib import Path

from service.bundle import deployment
from service.bundle.deployment import DeployedRanker
from tests.service.toy import eventually, toy


async def test_a_worker_is_ready_from_its_first_request_on(tmp_path: Path) -> None:
    """What is deployed is loaded before the first request can come."""
    async with toy(tmp_path) as service:
        assert (await service.client.get("/livez")).status_code == 200
        ready = await service.client.get("/readyz")
        assert ready.status_code == 200
        assert ready.json() == {
            "status": "ready",
            "worker": service.serving.registry.worker,
            "provider": "toy",
            "store": {"name": "memory", "state": "ok"},
            "rankers": {"default": "up"},
            "failed": {},
            "problems": [],
        }


async def test_a_worker_without_a_version_is_alive_but_not_ready(tmp_path: Path) -> None:
    """503 for readiness and for ranking, with what to do about it."""
    async with toy(tmp_path, deployed=None) as service:
        assert (await service.client.get("/livez")).status_code == 200
        ready = await service.client.get("/readyz")
        assert (ready.status_code, ready.json()["status"]) == (503, "undeployed")
        refused = await service.rank(candidates=["1"])
        assert (refused.status_code, refused.json()["error"]["type"]) == (503, "not_ready")
        assert "promote" in refused.json()["error"]["message"]


async def test_a_worker_whose_version_is_broken_says_so(tmp_path: Path) -> None:
    """It starts, is not ready, and shows the reason."""
    async with toy(tmp_path, deployed="broken") as service:
        ready = await service.client.get("/readyz")
        assert (ready.status_code, ready.json()["status"]) == (503, "failed")
        assert "weights.bin was altered" in ready.json()["failed"]["broken"]
        (problem,) = ready.json()["problems"]
        assert problem.startswith("default: ")


async def test_a_worker_that_cannot_load_starts_with_the_previous_version(tmp_path: Path) -> None:
    """Ready, and honest about it."""
    (tmp_path / "models").mkdir()
    deployed = DeployedRanker(version="broken", previous="up")
    deployment.update(tmp_path / "models", lambda present: present.having("default", deployed))
    async with toy(tmp_path / "models", deployed=None) as service:
        ready = await service.client.get("/readyz")
        assert (ready.status_code, ready.json()["rankers"]) == (200, {"default": "up"})
        assert "broken" in ready.json()["failed"]
        assert (await service.rank(candidates=["1"])).json()["version"] == "up"


async def test_a_draining_worker_is_unready_and_still_answers(tmp_path: Path) -> None:
    """Load balancers turn away; who is here already is served."""
    async with toy(tmp_path) as service:
        service.serving.drain()
        ready = await service.client.get("/readyz")
        assert (ready.status_code, ready.json()["status"]) == (503, "draining")
        assert (await service.rank(candidates=["1"])).status_code == 200


async def test_a_worker_that_still_loads_says_so(tmp_path: Path) -> None:
    """It will be ready, without anybody's doing."""
    async with toy(tmp_path) as service:
        free = service.hold("down")
        ranker = DeployedRanker(version="down")
        deployment.update(tmp_path, lambda present: present.having("feed", ranker))
        ready = await eventually(
            lambda: service.client.get("/readyz"), lambda answer: answer.status_code == 503
        )
        assert ready.json()["status"] == "loading"
        free.set()
        await eventually(lambda: service.client.get("/readyz"), lambda answer: answer.status_code == 200)


async def test_an_unreadable_deployment_is_a_problem_and_not_an_end(tmp_path: Path) -> None:
    """The worker starts and shows what is wrong with the file."""
    tmp_path.joinpath("deployment.json").write_text("{")
    async with toy(tmp_path, deployed=None) as service:
        ready = await eventually(
            lambda: service.client.get("/readyz"), lambda answer: answer.json()["problems"]
        )
        assert (ready.status_code, ready.json()["status"]) == (503, "failed")
        assert "deployment.json" in ready.json()["problems"][0]


async def test_metrics_are_prometheus_text(tmp_path: Path) -> None:
    """Counted by route pattern and outcome, so that no caller can make new series."""
    async with toy(tmp_path) as service:
        await service.rank(candidates=["1"])
        await service.rank(candidates=[])
        await service.client.get("/no/such/route")
        await service.client.get("/v1/models/some-name")
        answer = await service.client.get("/metrics")
        assert answer.headers["content-type"].startswith("text/plain")
        assert 'rankserve_requests_total{outcome="ok",route="/v1/rank"} 1.0' in answer.text
        assert 'rankserve_requests_total{outcome="invalid",route="/v1/rank"} 1.0' in answer.text
        assert 'rankserve_requests_total{outcome="not_found",route="other"} 1.0' in answer.text
        assert 'outcome="unknown_version",route="/v1/models/{version}"' in answer.text
        assert "some-name" not in answer.text
        assert 'rankserve_stage_seconds_count{stage="fuse"} 1.0' in answer.text
