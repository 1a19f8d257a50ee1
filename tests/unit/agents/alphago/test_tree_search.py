"""The batched search against the same by recursion, against trees by hand, and in positions that are decided."""

from __future__ import annotations

import numpy as np
import pytest

from rayloom.errors import UserError
from rayloom_agents.alphago.games import ConnectFour, Game, Go, State, TicTacToe, repeat, take
from rayloom_agents.alphago.search import Search, SearchSettings
from rayloom_agents.alphago.search.tree import Tree
from tree_search import Infer, Node, answers, hashed_network, plain_search, uniform_network


def positions(game: Game, count: int, plies: int, seed: int) -> State:
    """Return games after so many random plies."""
    generator, state = np.random.default_rng(seed), game.start(count)
    for _ in range(plies):
        draws = np.where(game.legal(state), generator.random((count, game.num_actions)), -1.0)
        game.play(state, np.where(game.is_over(state), -1, draws.argmax(axis=1)))
    return state


def assert_equal_trees(tree: Tree, g: int, number: int, node: Node) -> None:
    """Compare priors, visits and values below a node."""
    assert tree.mover[g, number] == node.mover and tree.value[g, number] == pytest.approx(node.value)
    assert tree.ended[g, number] == (not node.prior)
    assert set(np.flatnonzero(tree.prior[g, number] >= 0).tolist()) == set(node.prior)
    for action, prior in node.prior.items():
        assert tree.prior[g, number, action] == pytest.approx(prior, abs=1e-6)
        assert tree.visits[g, number, action] == node.visits[action]
        assert tree.value_sum[g, number, action] == pytest.approx(float(node.sums[action]), abs=1e-4)
        child = tree.child[g, number, action]
        assert (child >= 0) == (action in node.children)
        if child >= 0:
            assert_equal_trees(tree, g, child, node.children[action])


@pytest.mark.parametrize(
    ("game", "plies"),
    [
        (TicTacToe(), 0),
        (TicTacToe(), 3),
        (ConnectFour(), 9),
        (ConnectFour(), 20),
        (Go(3, komi=0.5), 6),
        (Go(5, komi=0.5), 3),
    ],
    ids=["tic-tac-toe", "tic-tac-toe, late", "connect four", "connect four, late", "go 3x3", "go 5x5"],
)
def test_the_batched_search_equals_a_recursive_one(game: Game, plies: int) -> None:
    settings, infer = SearchSettings(simulations=60), hashed_network(game, 4)
    state = positions(game, 5, plies, 8)
    search = Search(game, 5, settings)
    result = search.run(infer, state, np.random.default_rng(0))
    for g in np.flatnonzero(~game.is_over(state)):
        root = plain_search(game, infer, take(state, [g]), settings)
        assert_equal_trees(search.tree, g, 0, root)
        assert result.visits[g].sum() == 60
        assert result.action[g] == max(root.visits, key=lambda action: root.visits[action])
        shares = {a: n / 60 for a, n in root.visits.items()}
        assert [result.policy[g, a] for a in shares] == pytest.approx(list(shares.values()))
        total = root.value + sum(float(value) for value in root.sums.values())
        assert result.value[g] == pytest.approx(total / 61, abs=1e-5)


def test_forced_playouts_equal_the_recursive_search_with_them() -> None:
    game, settings = ConnectFour(), SearchSettings(simulations=80, noise_share=0.0, forced_playouts=2.0)
    infer, state = hashed_network(game, 1), game.start(2)
    search = Search(game, 2, settings)
    search.run(infer, state, np.random.default_rng(0), explore=np.array([True, False]))
    assert_equal_trees(search.tree, 0, 0, plain_search(game, infer, game.start(1), settings, forced=2.0))
    assert_equal_trees(search.tree, 1, 0, plain_search(game, infer, game.start(1), settings))
    assert (search.tree.visits[0, 0] != search.tree.visits[1, 0]).any()


def test_the_first_simulations_by_hand() -> None:
    """Two actions are left: X (to move) may take 7 or 8; the priors are 3/4 and 1/4, and the network says 0.2."""
    game = TicTacToe()
    state = game.start(1)
    for action in (0, 1, 2, 4, 3, 6, 5):  # O moves next with squares 7 and 8 free, and wins on 7
        game.play(state, np.array([action]))

    def infer(planes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        logits = np.zeros((len(planes), 9), np.float32)
        logits[:, 8] = np.log(3.0)
        return logits, np.full(len(planes), 0.2, np.float32)

    search = Search(game, 1, SearchSettings(simulations=3, exploration=1.0, unvisited_reduction=0.0))
    search.run(infer, state, np.random.default_rng(0))
    tree = search.tree
    assert tree.prior[0, 0, [7, 8]].tolist() == [0.25, 0.75] and tree.mover[0, 0] == -1
    # 1: 0.2 + 0.75 > 0.2 + 0.25: action 8. There X moves, for whom it is worth 0.2: -0.2 for O.
    # 2: 7: (0.2 - 0.2) / 2 + 0.25 * sqrt 2 = 0.354; 8: -0.2 + 0.75 * sqrt 2 / 2 = 0.330: action 7, which wins: 1.
    # 3: 7: 1 + 0.25 * sqrt 3 / 2; 8: -0.2 + 0.75 * sqrt 3 / 2: action 7 again, without a new node.
    assert tree.visits[0, 0, [7, 8]].tolist() == [2, 1]
    assert tree.value_sum[0, 0, [7, 8]].tolist() == pytest.approx([2.0, -0.2])
    assert tree.size[0] == 3
    assert tree.ended[0, tree.child[0, 0, 7]] and tree.value[0, tree.child[0, 0, 7]] == -1.0  # lost for X


def test_a_visit_under_way_counts_as_a_loss() -> None:
    """Three leaves at once of a network with equal priors go to three actions; alone they would, too, not repeat."""
    game = TicTacToe()
    search = Search(game, 1, SearchSettings(simulations=3, leaves=3, unvisited_reduction=0.0))
    calls = []

    def infer(planes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        calls.append(len(planes))
        logits = np.zeros((len(planes), 9), np.float32)
        logits[:, 4] = 2.5  # the favourite would be taken again if the visit under way did not count
        return logits, np.zeros(len(planes), np.float32)

    result = search.run(infer, game.start(1), np.random.default_rng(0))
    assert calls == [1, 3] and result.visits[0].sum() == 3
    assert result.visits[0].max() == 1
    assert not search.tree.pending.any()


@pytest.mark.parametrize("method", ["puct", "gumbel"])
def test_leaves_that_two_visits_share_are_counted_twice_and_made_once(method: str) -> None:
    game = TicTacToe()
    state = positions(game, 6, 5, 3)
    search = Search(game, 6, SearchSettings(method=method, simulations=40, leaves=8))
    search.run(hashed_network(game, 2), state, np.random.default_rng(0))
    running = ~game.is_over(state)
    assert running.any() and (search.tree.visits[running, 0].sum(axis=1) == 40).all()
    assert not search.tree.pending[running].any()
    for g in np.flatnonzero(running):
        children = search.tree.child[g, : search.tree.size[g]]
        assert sorted(children[children >= 0].tolist()) == list(range(1, search.tree.size[g]))


def perfect_value(game: Game, state: State, known: dict[bytes, int]) -> int:
    """Return the outcome for the mover between players who make no mistake."""
    key = game.observe(state).tobytes()
    if key not in known:
        if game.is_over(state)[0]:
            known[key] = int(game.outcome(state)[0] * game.mover(state)[0])
        else:
            actions = np.flatnonzero(game.legal(state)[0])
            after = repeat(state, len(actions))
            game.play(after, actions)
            known[key] = max(-perfect_value(game, take(after, [i]), known) for i in range(len(actions)))
    return known[key]


@pytest.mark.parametrize("settings", [
    {}, {"leaves": 4}, {"method": "gumbel"}, {"method": "gumbel", "leaves": 2},
], ids=str)  # fmt: skip
def test_a_search_without_knowledge_plays_tic_tac_toe_without_mistake(settings: dict) -> None:
    game, known = TicTacToe(), {}
    state = take(positions(game, 60, 3, 1), np.arange(40))
    search = Search(game, 40, SearchSettings(simulations=500, **settings))
    result = search.run(uniform_network(game), state, np.random.default_rng(0))
    for g in range(40):
        after = take(state, [g])
        game.play(after, result.action[[g]])
        best = perfect_value(game, take(state, [g]), known)
        assert -perfect_value(game, after, known) == best
        if settings == {} and best != 0:
            assert result.value[g] * best > 0


def test_a_pass_that_ends_the_game_has_its_exact_value() -> None:
    """White has passed behind: Black passes and wins, though the network says that he loses everywhere."""
    game = Go(3, komi=0.5)
    state = game.start(2)
    for action in (4, 9):
        game.play(state, np.array([action, action]))
    state.komi[1] = 9.5  # in the second game Black's pass would lose, and he plays on

    def infer(planes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        lost = np.where(planes[:, 15, 0, 0] == 1, -0.5, 0.5).astype(np.float32)
        return np.zeros((len(planes), 10), np.float32), lost

    search = Search(game, 2, SearchSettings(simulations=50))
    result = search.run(infer, state, np.random.default_rng(0))
    passes = search.tree.child[:, 0, 9]
    assert search.tree.value[[0, 1], passes].tolist() == [-1.0, 1.0]  # for White, who would be to move
    assert result.action[0] == 9 and result.value[0] > 0.5
    assert result.action[1] != 9


def reused(game: Game, infer: Infer) -> tuple[Search, State, np.ndarray, Tree]:
    """Return a search that has followed two moves, where it is, and its tree before."""
    state = game.start(3)
    search = Search(game, 3, SearchSettings(simulations=120))
    result = search.run(infer, state, np.random.default_rng(0))
    before = Tree(*(array.copy() for array in search.tree))
    game.play(state, result.action)
    return search, state, result.action, before


def same_subtrees(tree: Tree, node: int, other: Tree, number: int, g: int) -> int:
    """Compare two subtrees and return how many nodes they have."""
    for name in ("prior", "visits", "value_sum"):
        assert (getattr(tree, name)[g, node] == getattr(other, name)[g, number]).all()
    assert tree.value[g, node] == other.value[g, number] and tree.mover[g, node] == other.mover[g, number]
    count = 1
    for a, b in zip(tree.child[g, node].tolist(), other.child[g, number].tolist(), strict=True):
        assert (a >= 0) == (b >= 0)
        count += same_subtrees(tree, a, other, b, g) if a >= 0 else 0
    return count


def test_a_reused_tree_is_the_subtree_of_the_move_and_its_visits_count() -> None:
    game = Go(3, komi=0.5)
    infer, calls = hashed_network(game, 5), []
    search, state, actions, before = reused(game, infer)
    search.follow(np.array([actions[0], actions[1], -1]))
    for g in range(2):
        assert same_subtrees(search.tree, 0, before, int(before.child[g, 0, actions[g]]), g) == search.tree.size[g] > 3
    assert search.tree.size[2] == 0
    had = search.tree.visits[:2, 0].sum(axis=1)

    def counted(planes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        calls.append(len(planes))
        return infer(planes)

    result = search.run(counted, state, np.random.default_rng(1))
    assert (result.visits.sum(axis=1) == 120).all()
    assert len(calls) <= 121 and sum(calls) <= 121 + (120 - had).sum()


def test_games_that_have_ended_and_budgets_of_their_own() -> None:
    game = TicTacToe()
    state = game.start(3)
    for action in (0, 3, 1, 4, 2):
        game.play(state, np.array([action, -1, -1]))
    search = Search(game, 3, SearchSettings(simulations=30))
    result = search.run(uniform_network(game), state, np.random.default_rng(0), simulations=np.array([30, 10, 99]))
    assert result.visits.sum(axis=1).tolist() == [0, 10, 30]
    assert result.action[0] == -1 and result.value[0] == 0 and not result.policy[0].any()


@pytest.mark.parametrize("settings", [{"simulations": 0}, {"leaves": 0}, {"considered_actions": 0}])
def test_impossible_settings_are_refused(settings: dict) -> None:
    with pytest.raises(UserError, match=r"search\.\w+: input should be greater than or equal to 1, not 0"):
        SearchSettings(**settings)


def after_a_pass(komi: float, count: int = 1) -> tuple[Go, State]:
    """Return 3x3 games in which Black has 3 points, White 2, and Black has passed just now."""
    game = Go(3, komi=komi)
    state = game.start(count)
    for action in (1, 0, 4, 9, 7, 2, 9):  # the rest touches both colours
        game.play(state, np.full(count, action))
    return game, state


def never_passes(planes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    logits = np.zeros((len(planes), 10), np.float32)
    logits[:, 9] = -30.0
    return logits, np.full(len(planes), 0.9, np.float32)


@pytest.mark.parametrize("method", ["puct", "gumbel"])
def test_a_pass_that_wins_is_played_whatever_the_network_thinks(method: str) -> None:
    game, state = after_a_pass(komi=1.5)
    assert game.wins_by_ending(state).tolist() == [True]
    settings = SearchSettings(method=method, simulations=16)
    assert Search(game, 1, settings).run(never_passes, state, np.random.default_rng(0)).action.tolist() == [9]
    game, state = after_a_pass(komi=0.5)  # White would lose
    assert game.wins_by_ending(state).tolist() == [False]
    assert Search(game, 1, settings).run(never_passes, state, np.random.default_rng(0)).action.tolist() != [9]


def test_who_passes_into_a_loss_knows_it_from_the_first_visit() -> None:
    """White to move at a komi that Black can claim: after its pass, Black passes and has won."""
    game = Go(3, komi=1.5)
    state = game.start(1)
    for action in (1, 0, 4, 9, 7):
        game.play(state, np.array([action]))
    search = Search(game, 1, SearchSettings(simulations=40))

    def favours_passes(planes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        logits = np.zeros((len(planes), 10), np.float32)
        logits[planes[:, 14, 0, 0] == 0, 9], logits[planes[:, 14, 0, 0] > 0, 9] = 2.0, -30.0
        return logits, np.zeros(len(planes), np.float32)

    result = search.run(favours_passes, state, np.random.default_rng(0))
    tree = search.tree
    answer = tree.child[0, 0, 9]
    assert answer > 0 and tree.ended[0, answer] and tree.value[0, answer] == 1.0
    assert tree.value_sum[0, 0, 9] == -tree.visits[0, 0, 9] and result.action[0] != 9
    game.play(state, np.array([9]))
    search.follow(np.array([9]))  # the position is a root now, and is searched although a claim had ended it
    assert search.run(favours_passes, state, np.random.default_rng(0)).action.tolist() == [9]


def test_claims_by_the_compiled_loop_are_those_of_the_interface() -> None:
    game = Go(3, komi=0.5)
    generator, state = np.random.default_rng(5), game.start(400)
    for _ in range(7):
        draws = np.where(game.legal(state), generator.random((400, 10)), -1.0)
        draws[:, 9] += 0.45
        game.play(state, np.where(game.is_over(state), -1, draws.argmax(axis=1)))
    nowhere = np.zeros((400, 0), np.int64), np.zeros(400, np.int64)
    for claims in (False, True):
        fast = game.leaves(state, np.arange(400), *nowhere, game.start(1), claims=claims)
        plain = Game.leaves(game, state, np.arange(400), *nowhere, game.start(1), claims=claims)
        for name in ("legal", "over", "movers", "outcomes"):
            np.testing.assert_array_equal(getattr(fast, name), getattr(plain, name))
    assert game.wins_by_ending(state).sum() >= 10


@pytest.mark.parametrize("method", ["puct", "gumbel"])
def test_a_win_or_a_parry_one_ply_ahead_is_never_missed(method: str) -> None:
    """Of 600 positions of Connect Four those in which somebody threatens four, with a network that does not see it."""
    game = ConnectFour()
    state = positions(game, 600, 14, 3)
    choices = [answers(game, take(state, [g]))[1] if not over else [] for g, over in enumerate(game.is_over(state))]
    legal = game.legal(state).sum(axis=1)
    urgent = [g for g, choice in enumerate(choices) if 0 < len(choice) < legal[g]]
    assert len(urgent) > 200
    state, wanted = take(state, urgent), np.zeros((len(urgent), 7), np.bool_)
    for row, g in enumerate(urgent):
        wanted[row, choices[g]] = True
    np.testing.assert_array_equal(game.forced(state), wanted)
    search = Search(game, len(urgent), SearchSettings(method=method, simulations=100))

    def infer(planes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        logits = np.zeros((len(planes), 7), np.float32)
        if len(planes) == len(wanted):  # the roots
            logits[wanted] = -30.0
        return logits, np.full(len(planes), 0.95, np.float32)

    result = search.run(infer, state, np.random.default_rng(0))
    assert wanted[np.arange(len(urgent)), result.action].all()


def test_connect_fours_compiled_leaves_are_those_of_the_interface() -> None:
    game, generator = ConnectFour(), np.random.default_rng(2)
    state = positions(game, 300, 12, 6)
    ahead, paths, lengths = take(state, np.arange(300)), np.zeros((300, 8), np.int64), np.zeros(300, np.int64)
    for ply in range(8):
        draws = np.where(game.legal(ahead), generator.random((300, 7)), -1.0)
        actions = np.where(game.is_over(ahead) | (generator.random(300) < 0.1), -1, draws.argmax(axis=1))
        paths[np.arange(300), lengths] = np.maximum(actions, 0)
        lengths += actions >= 0
        game.play(ahead, actions)
        if ply == 0:
            assert (lengths == 0).any()
    fast = game.leaves(state, np.arange(300), paths, lengths, game.start(1))
    plain = Game.leaves(game, state, np.arange(300), paths, lengths, game.start(1))
    for ours, theirs in zip(fast, plain, strict=True):
        np.testing.assert_array_equal(ours, theirs)
        assert ours.dtype == theirs.dtype
    assert 20 < plain.over.sum() < 280
    full = take(state, [0])
    full.board[0, :7] = 1
    for row in (0, 7, -1):
        with pytest.raises(ValueError, match="path 0 is illegal in game 0"):
            game.leaves(full, np.array([0]), np.array([[row]]), np.array([1]), game.start(1))


def test_connect_fours_claims_are_those_of_plain_play() -> None:
    game = ConnectFour()
    state, nowhere = positions(game, 300, 16, 4), (np.zeros((300, 0), np.int64), np.zeros(300, np.int64))
    reached = game.leaves(state, np.arange(300), *nowhere, game.start(1), claims=True)
    decisions = []
    for g, over in enumerate(game.is_over(state).tolist()):
        decided, choice = (0, []) if over else answers(game, take(state, [g]))
        outcome = game.outcome(state)[g] if over else decided * game.mover(state)[g]
        assert reached.over[g] == (over or decided != 0) and reached.outcomes[g] == outcome
        assert np.flatnonzero(reached.legal[g]).tolist() == ([] if decided else choice)
        decisions.append(decided)
    assert min(decisions.count(1), decisions.count(-1)) > 5
