"""HNSW graphs as arrays: renumbering, hiding nodes, equal items, and damaged structures."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyspark_knn.index.approximate.copies import Copies, first_copies
from pyspark_knn.index.approximate.hnsw_graph import Graph, drawn_levels, most_levels

M = 3


def random_graph(n_items, seed, share_of_nodes=1.0):
    """A graph with links between random nodes of each level."""
    rng = np.random.default_rng(seed)
    levels = drawn_levels(n_items, M, [seed])
    levels[rng.random(n_items) > share_of_nodes] = 0
    levels[0] = max(levels.max(), 1)
    places = M * (levels.astype(np.int64) + (levels > 0))
    graph = Graph(M, 0, levels, np.full(places.sum(), -1, np.int32))
    for level, places, links in graph.parts():
        links[:] = rng.choice(np.flatnonzero(levels > level), links.shape)
        there = np.arange(links.shape[1]) < rng.integers(links.shape[1] + 1, size=(len(links), 1))
        graph.links[places] = np.where(there, links, -1)
    return graph


def compacted(graph):
    """The links with those of each node and level moved together."""
    links = graph.links.copy()
    for _, places, old in graph.parts():
        for row, values in zip(places, old, strict=True):
            kept = values[values >= 0]
            links[row] = -1
            links[row[: len(kept)]] = kept
    return links


def as_lists(graph):
    """Item -> level -> links."""
    starts = graph.offsets()
    found = {}
    for item in graph.nodes.tolist():
        links = graph.links[starts[item] : starts[item + 1]]
        parts = [links[: 2 * M]] + [
            links[M * (level + 1) : M * (level + 2)] for level in range(1, graph.levels[item])
        ]
        found[item] = [part[part >= 0].tolist() for part in parts]
    return found


graphs = st.builds(
    random_graph, st.integers(1, 60), st.integers(0, 99), st.sampled_from([0.5, 1.0])
)


@given(graphs)
def test_a_graph_is_restored_from_its_structure(graph):
    n_items = len(graph.levels)
    structure = graph.structure()
    for name, (dtype, shape) in Graph.expected(n_items).items():
        assert structure[name].dtype == dtype
        assert shape in ((None,), structure[name].shape)
    found = Graph.restored(structure)
    assert (found.m, found.entry) == (graph.m, graph.entry)
    assert as_lists(found) == as_lists(graph)


@given(graphs, st.data())
def test_items_that_move_keep_their_links(graph, data):
    n_old = len(graph.levels)
    n_items = n_old + data.draw(st.integers(0, 20))
    seed = data.draw(st.integers(0, 9))
    positions = np.random.default_rng(seed).permutation(n_items)[:n_old]
    moved = Graph.restored(graph.moved(positions, n_items).structure())
    expected = {
        int(positions[item]): [positions[links].tolist() for links in levels]
        for item, levels in as_lists(graph).items()
    }
    assert as_lists(moved) == expected
    assert moved.entry == positions[graph.entry]
    compact = Graph.restored(moved.compact().structure())
    assert len(compact.nodes) == len(compact.levels) == len(graph.nodes)
    assert as_lists(compact.moved(moved.nodes, n_items)) == expected


@given(graphs, st.data())
def test_no_link_leads_to_a_hidden_node(graph, data):
    nodes = graph.nodes.tolist()
    hidden = data.draw(st.sets(st.sampled_from(nodes), max_size=len(nodes) - 1))
    found = graph.without(np.array(sorted(hidden), np.int64))
    expected = {
        item: [[link for link in links if link not in hidden] for links in levels]
        for item, levels in as_lists(graph).items()
    }
    assert as_lists(found) == expected
    # FAISS stops at the first link that is not there.
    np.testing.assert_array_equal(found.links, compacted(found))
    assert found.entry not in hidden
    assert found.levels[found.entry] == max(graph.levels[item] for item in {*nodes} - hidden)


@pytest.mark.parametrize(("m", "most"), [(2, 26), (16, 7), (64, 5), (1024, 3)])
def test_levels_are_drawn_by_the_seed(m, most):
    assert most_levels(m) == most
    levels = drawn_levels(100_000, m, [3, 0])
    assert levels.min() == 1
    assert levels.max() <= most
    assert (levels > 1).mean() == pytest.approx(1 / m, rel=0.2, abs=1e-4)
    np.testing.assert_array_equal(levels, drawn_levels(100_000, m, [3, 0]))
    assert (levels != drawn_levels(100_000, m, [4, 0])).any()


@given(
    st.lists(st.lists(st.sampled_from([0.0, -0.0, 1.0, 3.0]), min_size=2, max_size=2), min_size=1),
    st.sampled_from([np.float32, np.float64]),
    st.data(),
)
def test_equal_items_share_a_node(rows, dtype, data):
    matrix = np.array(rows, dtype)
    firsts = first_copies(matrix)
    assert firsts.tolist() == [rows.index(row) for row in rows]
    copies = Copies.of(firsts)
    if copies is None:
        assert len({*map(tuple, rows)}) == len(rows)
        return
    groups = {node: np.flatnonzero(firsts == node).tolist() for node in firsts.tolist()}
    held = data.draw(st.sets(st.integers(0, len(rows) - 1)))
    nodes, items = copies.among(np.array(sorted(held), np.int64))
    whole = sorted(node for node, items in groups.items() if held.issuperset(items))
    assert nodes.tolist() == whole
    assert items.tolist() == sorted(item for node in whole for item in groups[node])
    found = data.draw(st.permutations(sorted(groups)))
    most = data.draw(st.integers(1, 5))
    table = np.array([[*found, -1], [*found[:1], *[-1] * len(found)]])
    added = copies.added(table, most)
    for row, given_nodes in zip(added.tolist(), (found, found[:1]), strict=True):
        items = [item for node in given_nodes for item in groups[node][:most]]
        got = [item for item in row if item >= 0]
        assert got == items[: len(got)]
        assert len(got) >= min(most, len(items))


@pytest.mark.parametrize(
    ("name", "damaged", "message"),
    [
        ("graph", np.array([1, 0]), "has M 1"),
        ("graph", np.array([M, -1]), "starts at item -1"),
        ("graph", np.array([M, 40]), "starts at item 40 of 40"),
        ("graph", np.array([M, 1]), "lacks the highest level"),
        ("graph", np.array([M + 1, 0]), "'links' must have"),
        ("levels", np.zeros(40, np.uint8), "has 0 levels"),
        ("levels", np.full(40, 255, np.uint8), "has 255 levels"),
        ("links", np.zeros(3, np.int32), "got 3"),
    ],
)
def test_a_damaged_structure_is_an_error_that_names_the_part(name, damaged, message):
    structure = {**random_graph(40, 1).structure(), name: damaged}
    with pytest.raises(ValueError, match=message):
        Graph.restored(structure)


@pytest.mark.parametrize("link", [-2, 40, 1 << 30])
def test_a_link_out_of_the_items_is_an_error(link):
    graph = random_graph(40, 1)
    graph.links[5] = link
    with pytest.raises(ValueError, match="links"):
        Graph.restored(graph.structure())


def test_a_link_to_an_item_below_its_level_is_an_error():
    graph = random_graph(200, 1)
    low = int(np.flatnonzero(graph.levels == 1)[0])
    places = next(places for level, places, _ in graph.parts() if level == 1)
    graph.links[places[0, 0]] = low
    with pytest.raises(ValueError, match="leads to an item that is not on level 1"):
        Graph.restored(graph.structure())
