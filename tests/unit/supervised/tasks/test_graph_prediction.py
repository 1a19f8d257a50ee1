"""What is asked about graphs: data by networkx, symmetry of the answers, and which data are refused."""

from __future__ import annotations

import math

import networkx as nx
import pytest
import torch

from rayloom import datasets
from rayloom.contract import Batch, TensorSpec, UserError
from rayloom_supervised.tasks.graphs import GraphPredictor

MODULE = "rayloom_supervised.data.random_graphs"
NAMES = ("communities", "hidden_edges", "distances")


def data(name: str, **settings: object) -> datasets.Dataset:
    sizes = {"train_size": 60, "validation_size": 5, "test_size": 5}
    return datasets.load({"import": f"{MODULE}:{name}", **sizes, **settings}, 0)


def graphs(batch: Batch) -> list[nx.Graph]:
    found = []
    for row in range(len(batch["node"])):
        graph = nx.empty_graph(int(batch["node_length"][row]))
        graph.add_edges_from(batch["edge"][row, : batch["edge_length"][row]].tolist())
        found.append(graph)
    return found


def test_distances_are_networkx() -> None:
    batch = data("distances").train.rows(torch.arange(60))
    for row, graph in enumerate(graphs(batch)):
        begin, end = batch["node"][row, :, 0].nonzero()[:, 0].tolist()
        steps = nx.shortest_path_length(graph, begin, end) if nx.has_path(graph, begin, end) else 99
        assert min(steps, 5) - 1 == batch["label"][row]
    assert batch["label"].bincount(minlength=5).min() >= 5


def test_hidden_edges_are_not_shown_and_as_many_pairs_are_apart() -> None:
    batch = data("hidden_edges").train.rows(torch.arange(60))
    for row, graph in enumerate(graphs(batch)):
        count = int(batch["query_length"][row])
        asked = batch["query"][row, :count].tolist()
        assert (
            not any(graph.has_edge(*pair) for pair in asked) and len({tuple(sorted(pair)) for pair in asked}) == count
        )
        assert 2 * int(batch["query_label"][row, :count].sum()) == count
        # Pairs that are linked in a geometric graph share more neighbours.
    exact = data("hidden_edges", noise=0.0).train.rows(torch.arange(60))
    rows = torch.arange(60)[:, None, None]
    apart = (exact["node"][rows, exact["query"]]).diff(dim=2).norm(dim=3).squeeze(2)
    real = torch.arange(apart.shape[1]) < exact["query_length"][:, None]
    assert torch.equal((apart < 0.25)[real], exact["query_label"][real] == 1) and float(apart[real].max()) < 0.5


def test_who_tells_is_not_asked_and_friends_are_alike() -> None:
    batch = data("communities", between=0.0).train.rows(torch.arange(60))
    for row, graph in enumerate(graphs(batch)):
        told = batch["node"][row, : len(graph)].sum(dim=1) > 0
        asked = batch["query"][row, : batch["query_length"][row], 0]
        assert set(asked.tolist()) == set((~told).nonzero()[:, 0].tolist()) and len(asked)
        member = batch["node"][row, : len(graph)].argmax(dim=1)
        member[asked] = batch["query_label"][row, : len(asked)]
        assert all(member[one] == member[other] for one, other in graph.edges)


@pytest.mark.parametrize("name", NAMES)
def test_answers_do_not_depend_on_order_padding_or_company(name: str) -> None:
    found = data(name)
    torch.manual_seed(0)
    predictor = GraphPredictor(GraphPredictor.Config(), found.spec)
    sizes = found.train.rows(torch.arange(60))["node_length"]
    small, large = int(sizes.argmin()), int(sizes.argmax())
    alone, together = (found.train.rows(torch.tensor(rows)) for rows in ([small], [large, small]))
    logits = predictor.logits(alone)
    torch.testing.assert_close(predictor.logits(together)[1, : logits.shape[1]], logits[0])
    torch.testing.assert_close(predictor.loss(together).per_example[1], predictor.loss(alone).per_example[0])
    order = torch.randperm(int(sizes[small]), generator=torch.Generator().manual_seed(0))
    renamed = {**alone, "node": alone["node"][:, order], "edge": order.argsort()[alone["edge"]].flip(1, 2)}
    if "query" in alone:
        renamed["query"] = order.argsort()[alone["query"]].flip(2)
    torch.testing.assert_close(predictor.logits(renamed), logits)


@pytest.mark.parametrize("name", NAMES)
def test_a_clueless_predictor_pays_the_logarithm_of_the_answers(name: str) -> None:
    found = data(name)
    predictor, batch = GraphPredictor(GraphPredictor.Config(), found.spec), found.train.rows(torch.arange(8))
    torch.nn.init.zeros_(predictor.head.weight)
    torch.nn.init.zeros_(predictor.head.bias)
    loss, outputs = predictor.loss(batch), predictor.evaluate(batch)
    count = batch.get("query_length", torch.ones(8))
    assert loss.count is not None and loss.count.tolist() == count.tolist()
    torch.testing.assert_close(loss.per_example, count * math.log(predictor.answers.categories))
    figure = predictor.summarize({"_confusion": outputs["_confusion"]})[1]["confusion_matrix"]  # type: ignore[dict-item]
    assert figure.data is not None and float(figure.data.sum()) == float(count.sum())
    assert float(figure.data[:, 0].sum()) == float(count.sum()), "rows are true answers, columns guesses"
    assert set(predictor.figures(batch)) == ({"states"} if name == "communities" else set())


def test_other_data_are_refused() -> None:
    with pytest.raises(UserError, match="needs the ragged fields node and edge, and query with query_label, or label"):
        GraphPredictor(GraphPredictor.Config(), {"image": TensorSpec(shape=(1, 8, 8), dtype=torch.uint8)})
    with pytest.raises(UserError, match="make it at least smallest"):
        data("distances", smallest=9, largest=8)
