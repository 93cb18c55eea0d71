"""What a pass and a report cost: counted in questions and runs, not in time."""

from __future__ import annotations

from support.control_bench import count_runs


def test_how_far_a_fetch_is_gets_stored_and_starts_no_run(bench, monkeypatch):
    bench.add_model()
    for node in bench.nodes.values():
        node.lives.append("hold")
    bench.gateway.activity("m", waiting=1)
    bench.run()
    bench.deliver()
    bench.report()
    (stage,) = bench.groups()[0].stages
    runs = count_runs(monkeypatch)
    for fetched in (100, 200):
        bench.nodes[stage.node_name].progress(fetched=fetched)
        bench.report(stage.node_name)
    assert runs == []
    (stage,) = bench.groups()[0].stages
    assert stage.bytes_fetched == 200
    bench.nodes[stage.node_name].set_state("ready")
    bench.report(stage.node_name)
    assert len(runs) == 1


def test_the_planned_bytes_stay_until_the_node_knows_better(bench):
    bench.add_model()
    bench.gateway.activity("m", waiting=1)
    bench.run()
    (stage,) = bench.groups()[0].stages
    planned = stage.bytes_to_fetch
    assert planned > 0
    node = bench.nodes[stage.node_name]
    node.lives.append("hold")
    (message,) = [m for m in bench.messages(f"node.{node.name}") if m["args"][1]["kind"] == "launch"]
    bench.carry_out(node, message)
    bench.report(node.name)
    assert bench.groups()[0].stages[0].bytes_to_fetch == planned
    node.progress(fetched=1, total=77)
    bench.report(node.name)
    assert bench.groups()[0].stages[0].bytes_to_fetch == 77


def test_an_idle_pass_asks_the_same_few_questions_however_many_models_there_are(bench):
    from sqlalchemy import event

    bench.add_model()
    bench.run()
    asked = []
    event.listen(bench.here.sessions.kw["bind"], "before_cursor_execute", lambda *args: asked.append(args[2]))
    bench.run()
    few = len(asked)
    for name in "abcdef":
        bench.add_model(name)
    bench.run()
    asked.clear()
    bench.run()
    assert len(asked) == few
    assert not any("manifest" in statement or "nodes.report," in statement for statement in asked)
