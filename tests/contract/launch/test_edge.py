"""What a caller meets at the edge: deadlines, slow senders, missing routes, problem details. Bounds, not durations."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable

import httpx2
import msgspec
import pytest

from launch.edge.configuration import UnknownConfigurationError, amended, max_connections
from launch.edge.install import bundled_haproxy
from tests.contract.launch.conftest import Edge
from tests.support import eventually
from tocsin.wire.problems import Problem

Held = Callable[[Callable[[], httpx2.Response]], tuple[httpx2.Response, float]]
LONGEST_S = 4.5  # 3 s, as the table is held to, and what a busy machine adds to the stopwatch


def assert_problem(answer: httpx2.Response, status: int, *, repeat: bool = True) -> None:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert msgspec.json.decode(answer.content, type=Problem).status == status
    assert ("retry-after" in answer.headers) is repeat


def test_a_question_to_a_hung_replica_is_answered_by_the_other(edge: Edge, held: Held) -> None:
    hung, well = edge.replica(), edge.replica()
    edge.start(churn=[hung, well])
    hung.hung.set()
    for number in range(6):
        answer, seconds = held(lambda number=number: edge.get(f"/v1/churn/{number}"))  # type: ignore[misc]
        assert answer.status_code == 200, answer.text
        assert seconds < LONGEST_S
    eventually(lambda: len(well.seen) >= 6, what="the questions at the other replica")


def test_a_send_to_a_hung_replica_is_never_repeated_by_the_edge(edge: Edge, held: Held) -> None:
    first, second = edge.replica(), edge.replica()
    edge.start(notifications=[first, second])
    answer, seconds = held(lambda: edge.post("/v1/notifications/hang", json={"title": "x"}))
    assert_problem(answer, 504)
    assert seconds < LONGEST_S
    assert len(first.seen + second.seen) == 1


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_the_only_replica_hangs_and_its_caller_learns_it_in_time(edge: Edge, held: Held, method: str) -> None:
    edge.start(churn=[edge.replica()], operations=[edge.replica()])
    for path in ("/v1/churn/hang", "/hang"):
        answer, seconds = held(lambda path=path: httpx2.request(method, edge.url + path, timeout=30))  # type: ignore[misc]
        assert_problem(answer, 504)
        assert seconds < LONGEST_S


def test_a_hung_replica_leaves_the_rotation(edge: Edge) -> None:
    hung, well = edge.replica(), edge.replica()
    edge.start(notifications=[hung, well])
    hung.hung.set()
    page = f"http://127.0.0.1:{edge.cfg.stats_port}/stats;csv"

    def down() -> bool:
        rows = [row.split(",") for row in httpx2.get(page).text.splitlines()]
        return any(row[1].endswith("-0") and row[17].startswith("DOWN") for row in rows if len(row) > 17)

    eventually(down, timeout_s=5.0, what="the hung replica out of rotation")
    before = len(well.seen)
    for _ in range(5):
        assert edge.post("/v1/notifications", json={}).status_code == 200
    assert len(well.seen) == before + 5


def test_a_large_body_has_more_time_than_a_small_one(edge: Edge, held: Held) -> None:
    edge.start(notifications=[edge.replica()])
    answer, seconds = held(lambda: edge.post("/v1/notifications/hang", content=b"x" * 20_000))
    assert_problem(answer, 504)
    assert seconds > LONGEST_S  # its own bound, stated in the table


def test_four_thousand_half_sent_requests_stop_nobody(edge: Edge, held: Held) -> None:
    edge.start(notifications=[edge.replica()], operations=[edge.replica()])
    halves: list[socket.socket] = []
    try:
        for _ in range(4_200):
            half = socket.create_connection(("127.0.0.1", edge.port), timeout=5)
            halves.append(half)
            half.sendall(b"POST /v1/notifications HTTP/1.1\r\nhost: x\r\ncontent-length: 99\r\n")
        for call in (lambda: edge.get("/healthz"), lambda: edge.post("/v1/notifications", json={})):
            answer, seconds = held(call)
            assert answer.status_code == 200
            assert seconds < LONGEST_S
        halves[0].settimeout(10)
        assert halves[0].recv(65_536).startswith(b"HTTP/1.1 408")
    finally:
        for half in halves:
            half.close()


def test_a_small_body_that_comes_slowly_never_occupies_a_replica(edge: Edge) -> None:
    replica = edge.replica()
    edge.start(notifications=[replica])
    with socket.create_connection(("127.0.0.1", edge.port), timeout=10) as slow:
        slow.sendall(b"POST /v1/notifications HTTP/1.1\r\nhost: x\r\ncontent-length: 99\r\n\r\n{")
        told = slow.recv(65_536)
    assert told.startswith(b"HTTP/1.1 408")
    assert b"application/problem+json" in told
    assert replica.seen == []


def test_one_address_never_takes_every_connection(edge: Edge) -> None:
    edge.start(operations=[edge.replica()])
    text = edge.config.read_text()
    assert f"src_conn_cur ge {max_connections() * 3 // 4} " in text
    few = text.replace(f"src_conn_cur ge {max_connections() * 3 // 4} ", "src_conn_cur ge 5 ")
    edge.processes.pop().kill()
    edge.config.write_text(few)
    edge.run([str(bundled_haproxy()), "-db", "-f", str(edge.config)])
    idle = [socket.create_connection(("127.0.0.1", edge.port), timeout=5) for _ in range(5)]
    with pytest.raises(httpx2.RequestError):
        edge.get("/healthz")
    other = httpx2.HTTPTransport(local_address="127.0.0.2")
    with httpx2.Client(transport=other) as elsewhere:
        assert elsewhere.get(edge.url + "/healthz").status_code == 200
    for each in idle:
        each.close()


def test_the_last_connections_are_for_what_is_urgent(edge: Edge) -> None:
    edge.start(operations=[edge.replica()], notifications=[edge.replica()], features=[edge.replica()])
    urgent_from = max_connections() * 7 // 8
    text = edge.config.read_text()
    assert f"fe_conn gt {urgent_from} " in text
    edge.processes.pop().kill()
    edge.config.write_text(text.replace(f"fe_conn gt {urgent_from} ", "fe_conn gt 3 "))
    edge.run([str(bundled_haproxy()), "-db", "-f", str(edge.config)])
    idle = [socket.create_connection(("127.0.0.1", edge.port), timeout=5) for _ in range(3)]
    assert_problem(edge.get("/v1/features/a"), 503)
    assert edge.get("/healthz").status_code == 200
    assert edge.post("/v1/notifications", json={}).status_code == 200
    for each in idle:
        each.close()


def test_a_route_that_is_not_there_yet_is_unavailable_not_unknown(edge: Edge) -> None:
    edge.start()
    for path in ("/v1/notifications", "/v1/churn/a", "/healthz"):
        assert_problem(edge.get(path), 503)
        assert_problem(edge.post(path, json={}), 503)


def test_so_it_is_while_operations_already_answers_for_every_path(edge: Edge) -> None:
    operations = edge.replica()
    edge.start(operations=[operations])
    assert_problem(edge.post("/v1/notifications", json={}), 503)
    assert_problem(edge.get("/v1/churn/a"), 503)
    assert operations.seen == []
    assert edge.get("/v1/churning").status_code == 200  # another path, theirs to refuse


def test_a_replica_that_is_gone_is_a_problem_to_repeat(edge: Edge) -> None:
    gone = edge.replica()
    edge.start(churn=[gone])
    gone.close()
    edge.replicas.remove(gone)
    assert_problem(edge.get("/v1/churn/a"), 503)
    assert_problem(edge.post("/v1/churn", json={}), 503)


@pytest.mark.parametrize(
    ("theirs", "ours", "repeat"), [(404, 503, True), (429, 429, True), (500, 500, False), (503, 503, True)]
)
def test_what_ray_says_in_plain_text_becomes_a_problem(
    edge: Edge, theirs: int, ours: int, repeat: bool
) -> None:
    edge.start(churn=[edge.replica()])
    assert_problem(edge.get(f"/v1/churn/status/{theirs}"), ours, repeat=repeat)


@pytest.mark.parametrize(
    "path", ["/-/routes", "/-/ROUTES", "/%2d/routes", "/v1/churn/-/routes", "/-/routes/"]
)
def test_the_table_of_routes_is_nobodys_to_read(edge: Edge, path: str) -> None:
    replica = edge.replica()
    edge.start(operations=[replica], churn=[replica])
    with socket.create_connection(("127.0.0.1", edge.port), timeout=10) as raw:
        raw.sendall(f"GET {path} HTTP/1.1\r\nhost: x\r\n\r\n".encode())
        assert raw.recv(65_536).startswith(b"HTTP/1.1 404")
    assert replica.seen == []
    assert edge.get("/-/healthz").status_code == 200


def test_statistics_are_read_on_this_machine_only(edge: Edge) -> None:
    edge.start(operations=[edge.replica()])
    text = edge.config.read_text()
    assert f"bind 127.0.0.1:{edge.cfg.stats_port}" in text
    assert f"bind 127.0.0.1:{edge.cfg.metrics_port}" in text


def test_another_configuration_than_the_one_we_know_does_not_start_in_silence(edge: Edge) -> None:
    """Ray's template is amended line by line. An upgrade that fails here renamed what the message names."""
    edge.write(churn=[edge.replica()])
    text = edge.config.read_text()
    amended(text, (), edge.folder)
    for needed in ("frontend http_frontend", "    errorfile 503", "    maxconn", "if routes", "listen stats"):
        broken = "\n".join(line for line in text.splitlines() if needed not in line)
        with pytest.raises(UnknownConfigurationError):
            amended(broken, (), edge.folder)


def test_many_questions_at_once_pass(edge: Edge) -> None:
    edge.start(churn=[edge.replica(), edge.replica()])
    answers: list[int] = []

    def ask() -> None:
        with httpx2.Client() as client:
            answers.extend(client.get(f"{edge.url}/v1/churn/{n}").status_code for n in range(20))

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == [200] * 160
