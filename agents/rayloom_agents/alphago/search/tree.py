"""The trees of a batch of games in flat arrays [game, node, action], compiled.

Node 0 is a game's root; a child has a larger number than its parent. Sums of values belong to the player who chooses
at the node, so that a mean is always "how good is this action for whoever takes it". A visit that has been sent for a
leaf and has not come back is pending.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from rayloom_agents.alphago.compiled import compiled

PUCT, GUMBEL = 0, 1
_SMALLEST = 1e-30


class Tree(NamedTuple):
    """Trees of G games with room for M nodes of A actions."""

    prior: NDArray[np.float32]
    """[G, M, A]; below 0 where the action is illegal."""
    visits: NDArray[np.int32]
    """[G, M, A]"""
    value_sum: NDArray[np.float32]
    """[G, M, A]: of the values that came back, for the node's mover."""
    child: NDArray[np.int32]
    """[G, M, A]: a node; -1 for none."""
    pending: NDArray[np.int16]
    """[G, M, A]: visits under way."""
    value: NDArray[np.float32]
    """[G, M]: the network's value for the node's mover; the exact one where the game has ended."""
    mover: NDArray[np.int8]
    """[G, M]: 1 the first player, -1 the second."""
    ended: NDArray[np.bool_]
    """[G, M]: whether the game has ended there."""
    size: NDArray[np.int32]
    """[G]: nodes in use."""


class Rule(NamedTuple):
    """How actions are chosen: numbers of `SearchSettings`, and what a search has drawn for its roots."""

    method: int
    exploration: float
    unvisited_reduction: float
    forced: NDArray[np.float32]
    """[G]: k of forced playouts at the root; 0 for none."""
    gumbel: NDArray[np.float32]
    """[G, A]: noise of the roots."""
    schedule: NDArray[np.int32]
    """[G, simulations]: how many visits the action has that the root's next simulation takes."""
    value_offset: float
    value_scale: float


def allocate(games: int, nodes: int, actions: int) -> Tree:
    """Return empty trees."""
    edges = (games, nodes, actions)
    return Tree(
        prior=np.full(edges, -1, np.float32),
        visits=np.zeros(edges, np.int32),
        value_sum=np.zeros(edges, np.float32),
        child=np.full(edges, -1, np.int32),
        pending=np.zeros(edges, np.int16),
        value=np.zeros((games, nodes), np.float32),
        mover=np.zeros((games, nodes), np.int8),
        ended=np.zeros((games, nodes), np.bool_),
        size=np.zeros(games, np.int32),
    )


@compiled
def _puct_action(tree: Tree, rule: Rule, g: int, node: int, forced: float) -> int:
    """Return the action with the largest mean value + c * prior * sqrt(1 + all visits) / (1 + visits)."""
    prior, visits, pending, sums = (
        tree.prior[g, node],
        tree.visits[g, node],
        tree.pending[g, node],
        tree.value_sum[g, node],
    )
    total, returned, tried = 0, 0, 0.0
    summed = tree.value[g, node]
    for action in range(len(prior)):
        if visits[action] + pending[action] > 0:
            total += visits[action] + pending[action]
            returned += visits[action]
            summed += sums[action]
            tried += prior[action]
    unvisited = summed / (1 + returned) - rule.unvisited_reduction * math.sqrt(tried)
    factor = rule.exploration * math.sqrt(1.0 + total)
    best, best_score = -1, -np.inf
    for action in range(len(prior)):
        if prior[action] < 0:
            continue
        count = visits[action] + pending[action]
        if forced > 0 and count > 0 and count < math.sqrt(forced * prior[action] * total):
            return action
        if count > 0:
            score = (sums[action] - pending[action]) / count + factor * prior[action] / (1 + count)
        else:
            score = unvisited + factor * prior[action]
        if score > best_score:
            best, best_score = action, score
    return best


@compiled
def _scaled_values(tree: Tree, rule: Rule, g: int, node: int, out: NDArray[np.float64]) -> None:
    """Write sigma of the completed values of a node's actions: those unvisited count as the mixed value."""
    prior, visits, sums = tree.prior[g, node], tree.visits[g, node], tree.value_sum[g, node]
    total, most, weight, weighted = 0, 0, 0.0, 0.0
    for action in range(len(prior)):
        if visits[action] > 0:
            total += visits[action]
            most = max(most, visits[action])
            weight += max(prior[action], _SMALLEST)
            weighted += max(prior[action], _SMALLEST) * sums[action] / visits[action]
    mixed = tree.value[g, node]
    if total > 0:
        mixed = (mixed + total * weighted / weight) / (1 + total)
    for action in range(len(prior)):
        value = sums[action] / visits[action] if visits[action] > 0 else mixed
        out[action] = (rule.value_offset + most) * rule.value_scale * (value + 1) / 2


@compiled
def _improved_policy(tree: Tree, rule: Rule, g: int, node: int, out: NDArray[np.float64]) -> None:
    """Write softmax(logits + sigma(completed values)); 0 where an action is illegal."""
    prior, highest, total = tree.prior[g, node], -np.inf, 0.0
    _scaled_values(tree, rule, g, node, out)
    for action in range(len(prior)):
        if prior[action] >= 0:
            out[action] += math.log(max(prior[action], _SMALLEST))
            highest = max(highest, out[action])
    for action in range(len(prior)):
        out[action] = math.exp(out[action] - highest) if prior[action] >= 0 else 0.0
        total += out[action]
    for action in range(len(prior)):
        out[action] /= total


@compiled
def _halving_action(tree: Tree, rule: Rule, g: int, wanted: int, work: NDArray[np.float64]) -> int:
    """Return the root's best action of `wanted` visits by gumbel + logits + sigma(completed values)."""
    best, best_score = -1, -np.inf
    _scaled_values(tree, rule, g, 0, work)
    for action in range(len(work)):
        if tree.prior[g, 0, action] >= 0 and tree.visits[g, 0, action] + tree.pending[g, 0, action] == wanted:
            logit = math.log(max(tree.prior[g, 0, action], _SMALLEST))
            score = rule.gumbel[g, action] + logit + work[action]
            if score > best_score:
                best, best_score = action, score
    return best


@compiled
def _closest_action(tree: Tree, rule: Rule, g: int, node: int, work: NDArray[np.float64]) -> int:
    """Return the action that brings the visits closest to the improved policy."""
    _improved_policy(tree, rule, g, node, work)
    total, best, best_score = 0, -1, -np.inf
    for action in range(len(work)):
        total += tree.visits[g, node, action] + tree.pending[g, node, action]
    for action in range(len(work)):
        if tree.prior[g, node, action] >= 0:
            count = tree.visits[g, node, action] + tree.pending[g, node, action]
            if work[action] - count / (1 + total) > best_score:
                best, best_score = action, work[action] - count / (1 + total)
    return best


@compiled
def select(
    tree: Tree,
    rule: Rule,
    done: NDArray[np.int64],
    wanted: NDArray[np.int64],
    nodes: NDArray[np.int32],
    actions: NDArray[np.int64],
    lengths: NDArray[np.int64],
) -> None:
    """Send up to L visits down each tree and mark them as pending.

    `done` and `wanted` [G] count simulations. Visit l of game g takes the first `lengths[g, l]` of `actions[g, l]`,
    chosen at `nodes[g, l]` [G, L, D]; its last action leads to a new node, or to one where the game has ended. No visit
    where the length is -1.
    """
    work = np.empty(tree.prior.shape[2], np.float64)
    for g in range(lengths.shape[0]):
        for leaf in range(lengths.shape[1]):
            lengths[g, leaf] = -1
            if done[g] + leaf >= wanted[g] or tree.size[g] == 0:
                continue
            node, depth = 0, 0
            while node >= 0 and not tree.ended[g, node]:
                if rule.method == PUCT:
                    action = _puct_action(tree, rule, g, node, rule.forced[g] if node == 0 else 0.0)
                elif node == 0:
                    action = _halving_action(tree, rule, g, rule.schedule[g, done[g] + leaf], work)
                else:
                    action = _closest_action(tree, rule, g, node, work)
                nodes[g, leaf, depth], actions[g, leaf, depth] = node, action
                tree.pending[g, node, action] += 1
                node, depth = tree.child[g, node, action], depth + 1
            lengths[g, leaf] = depth


@compiled
def _fill_node(
    tree: Tree,
    g: int,
    node: int,
    logits: NDArray[np.float32],
    legal: NDArray[np.bool_],
    value: float,
    mover: int,
    work: NDArray[np.float64],
) -> None:
    """Write a new node: the softmax of the legal actions' logits; the game has ended where none is legal."""
    highest, total = -np.inf, 0.0
    for action in range(len(legal)):
        if legal[action]:
            highest = max(highest, logits[action])
    for action in range(len(legal)):
        if legal[action]:
            work[action] = math.exp(logits[action] - highest)
            total += work[action]
    for action in range(len(legal)):
        tree.prior[g, node, action] = work[action] / total if legal[action] else -1.0
    tree.visits[g, node], tree.value_sum[g, node], tree.pending[g, node] = 0, 0, 0
    tree.child[g, node] = -1
    tree.value[g, node], tree.mover[g, node], tree.ended[g, node] = value, mover, total == 0


@compiled
def plant(
    tree: Tree,
    games: NDArray[np.int64],
    logits: NDArray[np.float32],
    legal: NDArray[np.bool_],
    values: NDArray[np.float32],
    movers: NDArray[np.int8],
) -> None:
    """Begin the trees of `games` [B] anew, with a root that the network has judged."""
    work = np.empty(tree.prior.shape[2], np.float64)
    for row in range(len(games)):
        _fill_node(tree, games[row], 0, logits[row], legal[row], values[row], movers[row], work)
        tree.size[games[row]] = 1


@compiled
def back_up(
    tree: Tree,
    leaves: NDArray[np.int64],
    nodes: NDArray[np.int32],
    actions: NDArray[np.int64],
    lengths: NDArray[np.int64],
    judged: NDArray[np.int64],
    logits: NDArray[np.float32],
    values: NDArray[np.float32],
    legal: NDArray[np.bool_],
    movers: NDArray[np.int8],
    outcomes: NDArray[np.float32],
) -> None:
    """Add the leaves' nodes and bring their values back along their paths.

    `leaves` [B] numbers them, g * L + l; the rows of `judged` and of what follows `values` belong to them. `judged` is
    a leaf's row of `logits` and `values`, or -1 where the game has ended with the first player's `outcomes`. Two visits
    of one batch that found the same leaf share its node.
    """
    work = np.empty(tree.prior.shape[2], np.float64)
    for row in range(len(leaves)):
        g, leaf = leaves[row] // lengths.shape[1], leaves[row] % lengths.shape[1]
        last = lengths[g, leaf] - 1
        node, action = nodes[g, leaf, last], actions[g, leaf, last]
        at = max(0, judged[row])
        value = values[at] if judged[row] >= 0 else outcomes[row] * movers[row]
        if tree.child[g, node, action] < 0:
            tree.child[g, node, action] = tree.size[g]
            _fill_node(tree, g, tree.size[g], logits[at], legal[row], value, movers[row], work)
            tree.size[g] += 1
        for step in range(last + 1):
            node, action = nodes[g, leaf, step], actions[g, leaf, step]
            tree.visits[g, node, action] += 1
            tree.pending[g, node, action] -= 1
            tree.value_sum[g, node, action] += value * movers[row] * tree.mover[g, node]


@compiled
def _move_node(tree: Tree, g: int, node: int, new_number: NDArray[np.int32]) -> None:
    """Copy a node to its new number, which is not above the old one."""
    new = new_number[node]
    for action in range(tree.child.shape[2]):
        below = tree.child[g, node, action]
        tree.child[g, new, action] = new_number[below] if below >= 0 else -1
    tree.prior[g, new], tree.visits[g, new] = tree.prior[g, node], tree.visits[g, node]
    tree.value_sum[g, new], tree.pending[g, new] = tree.value_sum[g, node], tree.pending[g, node]
    tree.value[g, new], tree.mover[g, new] = tree.value[g, node], tree.mover[g, node]
    tree.ended[g, new] = tree.ended[g, node]


@compiled
def reroot(tree: Tree, actions: NDArray[np.int64]) -> None:
    """Keep of every tree what lies below the root's `actions` [G]; below 0, or where nothing does: keep nothing."""
    new_number = np.empty(tree.value.shape[1], np.int32)
    for g in range(len(actions)):
        root = tree.child[g, 0, actions[g]] if actions[g] >= 0 and tree.size[g] > 0 else -1
        if root < 0 or tree.ended[g, root]:  # where only a claim has ended it, it is judged anew as a root
            tree.size[g] = 0
            continue
        new_number[: tree.size[g]] = -1
        new_number[root] = 0
        for node in range(root, tree.size[g]):  # parents come before their children
            if new_number[node] >= 0:
                for action in range(tree.child.shape[2]):
                    if tree.child[g, node, action] >= 0:
                        new_number[tree.child[g, node, action]] = 0
        count = 0
        for node in range(root, tree.size[g]):
            if new_number[node] >= 0:
                new_number[node] = count
                count += 1
        for node in range(root, tree.size[g]):
            if new_number[node] >= 0:
                _move_node(tree, g, node, new_number)
        tree.size[g] = count


@compiled
def root_policies(tree: Tree, rule: Rule, out: NDArray[np.float64]) -> None:
    """Write the improved policy of every root [G, A]; zeros where there is no tree."""
    for g in range(len(out)):
        out[g] = 0
        if tree.size[g] > 0 and not tree.ended[g, 0]:
            _improved_policy(tree, rule, g, 0, out[g])


@compiled
def most_visited_actions(tree: Tree, rule: Rule, out: NDArray[np.int64]) -> None:
    """Write the action in which sequential halving ends [G]; -1 where there is no tree."""
    work = np.empty(tree.prior.shape[2], np.float64)
    for g in range(len(out)):
        out[g] = -1
        if tree.size[g] > 0 and not tree.ended[g, 0]:
            out[g] = _halving_action(tree, rule, g, tree.visits[g, 0].max(), work)
