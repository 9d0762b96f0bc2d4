# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""Algorithm 1 of C2FNAS: by hand in small spaces, and the same after every interruption."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest

from cakes_monai.search.evolution import TopologyEvolution
from cakes_monai.search.operation_sampling import draw_candidates
from cakes_monai.search.proposer import WIDTH_MULTIPLIERS, CandidateList
from cakes_monai.search.topology_space import TopologySpace, legal_topologies
from cakes_monai.search.trial import Proposal, Trial

CELLS = [topology.levels for topology in legal_topologies(6, 1)]  # 15 topologies
CLUSTERS = [CELLS[:5], CELLS[5:10], CELLS[10:]]


def evolution(scores: list[list[float]], **options: object) -> TopologyEvolution:
    """An evolution whose cluster number c has the trained networks ``scores[c]``, all its initial ones."""
    networks = [(cluster, place, score) for cluster, row in enumerate(scores) for place, score in enumerate(row)]
    trials = [
        Trial(Proposal(index, CLUSTERS[cluster][place], "initial", cluster)).finished(score, index)
        for index, (cluster, place, score) in enumerate(networks)
    ]
    settings: dict[str, object] = {"num_initial_per_cluster": 1, "explore_prob": 0.0, "max_networks": 15}
    return TopologyEvolution(CLUSTERS, trials=trials, **(settings | options))  # type: ignore[arg-type]


def asked(search: TopologyEvolution) -> Proposal:
    """The next proposal, which there must be."""
    proposal = search.ask()
    assert proposal is not None
    return proposal


def test_begins_with_two_random_networks_of_each_cluster() -> None:
    """One of every cluster, then another of every cluster; a cluster of one topology gives that one."""
    search = TopologyEvolution([CELLS[:5], CELLS[5:6], CELLS[6:]], seed=1)
    first = [asked(search) for _ in range(5)]
    assert [proposal.cluster for proposal in first] == [0, 1, 2, 0, 2]
    assert [proposal.index for proposal in first] == list(range(5))
    assert {proposal.reason for proposal in first} == {"initial"}
    assert first[1].candidate == CELLS[5]
    assert len({proposal.candidate for proposal in first}) == 5
    others = {tuple(asked(TopologyEvolution(CLUSTERS, seed)).candidate) for seed in range(40)}  # type: ignore[arg-type]
    assert others == set(CLUSTERS[0])


def test_the_best_cluster_gives_the_next_topology() -> None:
    """Clusters with one network of 0.7, 0.9 and 0.8: all of cluster 1 is proposed, then all of 2, then of 0."""
    search = evolution([[0.7], [0.9], [0.8]])
    clusters = []
    while (proposal := search.ask()) is not None:
        clusters.append(proposal.cluster)
        assert proposal.reason == "best"
        search.fail(proposal.index, "out of memory")  # without a score, so that draws stay what they are
    assert clusters == [1] * 4 + [2] * 4 + [0] * 4
    assert len({trial.proposal.candidate for trial in search.trials}) == 15
    assert search.done


def test_a_better_result_moves_the_search() -> None:
    """A cluster leads as often as the network drawn from it is the best one drawn; counted over seeds."""
    drawn = Counter(asked(evolution([[0.8], [0.9, 0.1]], seed=seed)).cluster for seed in range(400))
    assert drawn.keys() == {0, 1}
    assert abs(drawn[1] - 200) < 30  # cluster 1 wins when its 0.9 is drawn
    drawn = Counter(asked(evolution([[0.8], [0.9, 0.1, 0.2, 0.95]], seed=seed)).cluster for seed in range(400))
    assert abs(drawn[1] - 200) < 30
    drawn = Counter(asked(evolution([[0.8], [0.9, 0.1, 0.2, 0.3]], seed=seed)).cluster for seed in range(400))
    assert abs(drawn[1] - 100) < 30


def test_one_in_five_is_random() -> None:
    """With probability 0.2 the cluster is drawn from all that have topologies left, each equally likely."""
    proposals = [asked(evolution([[0.1], [0.2], [0.9]], seed=seed, explore_prob=0.2)) for seed in range(900)]
    explored = Counter(proposal.cluster for proposal in proposals if proposal.reason == "explore")
    assert abs(sum(explored.values()) - 180) < 30
    assert all(abs(explored[cluster] - 60) < 20 for cluster in range(3))
    assert {proposal.cluster for proposal in proposals if proposal.reason == "best"} == {2}
    always = [asked(evolution([[0.1], [0.2], [0.9]], seed=seed, explore_prob=1)) for seed in range(20)]
    assert {proposal.reason for proposal in always} == {"explore"}


def test_equal_scores_are_decided_by_number() -> None:
    """Of clusters with equal scores the one with the smaller number gives; the best is the first proposed."""
    for seed in range(10):
        assert asked(evolution([[0.1], [0.5], [0.5]], seed=seed)).cluster == 1
    best = evolution([[0.1], [0.5], [0.5]]).best
    assert best is not None
    assert best.index == 1


def test_failed_trials_count_and_are_never_drawn() -> None:
    """A failed network is not proposed again, its cluster without a score is not ranked, and it uses up the budget."""
    search = TopologyEvolution(CLUSTERS, num_initial_per_cluster=1, explore_prob=0, max_networks=6)
    for score in (0.3, None, 0.2):
        proposal = asked(search)
        search.fail(proposal.index, "diverged") if score is None else search.tell(proposal.index, score)
    rest = [asked(search) for _ in range(3)]
    assert [proposal.cluster for proposal in rest] == [0, 0, 0]
    assert len({trial.proposal.candidate for trial in search.trials}) == 6
    assert search.ask() is None
    assert not search.done  # three are running
    for proposal in rest:
        search.fail(proposal.index, "diverged")
    assert search.done
    assert search.trials[1].failures == ("diverged",)
    assert search.best is not None
    assert search.best.score == 0.3


def test_all_failed_goes_on_at_random() -> None:
    """When no network has a score there is nothing to rank, and the next one is of a random cluster."""
    search = TopologyEvolution(CLUSTERS, num_initial_per_cluster=1, explore_prob=0, max_networks=15)
    for _ in range(3):
        search.fail(asked(search).index, "out of memory")
    reasons = []
    while (proposal := search.ask()) is not None:
        reasons.append(proposal.reason)
        search.fail(proposal.index, "out of memory")
    assert reasons == ["unranked"] * 12
    assert search.best is None


def test_more_workers_than_first_networks() -> None:
    """Workers that are idle before every cluster has its first score explore; nothing is proposed twice."""
    search = TopologyEvolution(CLUSTERS, num_initial_per_cluster=1, explore_prob=0, max_networks=15)
    proposals = [asked(search) for _ in range(6)]
    assert [proposal.reason for proposal in proposals] == ["initial"] * 3 + ["unranked"] * 3
    search.tell(0, 0.5)
    search.tell(1, 0.6)
    assert asked(search).reason == "unranked"  # cluster 2 has only running ones
    search.tell(2, 0.1)
    assert (asked(search).reason, search.trials[-1].proposal.cluster) == ("best", 1)
    assert len({trial.proposal.candidate for trial in search.trials}) == 8


def test_a_trial_that_is_tried_again_comes_first() -> None:
    """After a failure that is not final the same proposal is handed out before any new one."""
    search = TopologyEvolution(CLUSTERS, num_initial_per_cluster=1, max_networks=15)
    first, second = asked(search), asked(search)
    search.fail(second.index, "worker lost", final=False)
    search.fail(first.index, "worker lost", final=False)
    assert (asked(search), asked(search)) == (first, second)
    assert asked(search).index == 2
    search.tell(1, 0.5)
    assert search.trials[1].failures == ("worker lost",)
    assert search.trials[1].state == "finished"


def test_scores_must_be_numbers_of_running_trials() -> None:
    """NaN, infinity, text, unknown and ended trials are refused, and the trial goes on as it was."""
    search = TopologyEvolution(CLUSTERS)
    index = asked(search).index
    for score in (math.nan, math.inf, "0.5", None):
        with pytest.raises(ValueError, match=r"trial 0: score .* is no finite number"):
            search.tell(index, score)  # type: ignore[arg-type]
    for unknown in (1, -1):
        with pytest.raises(ValueError, match=f"trial {unknown} was never proposed, there are 1"):
            search.tell(unknown, 0.5)
    search.tell(index, np.float32(0.5))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="trial 0 is already finished, it cannot be failed"):
        search.fail(index)


def test_every_prefix_gives_the_same_proposals() -> None:
    """Made anew after any event, also with other trials running, the search proposes what it would have."""
    space = TopologySpace()
    search = TopologyEvolution(space.clusters, seed=5, max_networks=40)
    random = np.random.RandomState(0)
    running: list[Proposal] = []
    while not search.done:
        while len(running) < 5:
            anew = TopologyEvolution(space.clusters, seed=5, max_networks=40, trials=search.trials)
            assert anew.trials == search.trials
            expected = search.ask()
            handed_out = [anew.ask() for _ in range(len(running) + 1)]
            assert handed_out == [*sorted(running, key=lambda proposal: proposal.index), expected]
            if expected is None:
                break
            running.append(expected)
        ended = running.pop(random.randint(len(running)))
        if random.rand() < 0.1:
            search.fail(ended.index, "out of memory")
        else:
            search.tell(
                ended.index, -float(np.square(np.subtract(ended.candidate, space.topologies[300].levels)).sum())
            )
    assert len(search.trials) == 40
    reasons = Counter(trial.proposal.reason for trial in search.trials)
    assert reasons["initial"] == 16
    assert reasons["best"] > reasons["explore"] > 0


def test_proposals_do_not_depend_on_the_order_of_results() -> None:
    """Two searches whose networks have the same scores, told in opposite order, propose the same."""
    searches = [TopologyEvolution(CLUSTERS, seed=3, max_networks=15) for _ in range(2)]
    for search, order in zip(searches, (range(6), reversed(range(6))), strict=True):
        proposals = [asked(search) for _ in range(6)]
        for index in order:
            search.tell(index, sum(proposals[index].candidate) / 10)  # type: ignore[arg-type]
    assert asked(searches[0]) == asked(searches[1])


def test_the_budget_can_be_raised() -> None:
    """A finished search made anew with more networks goes on; its settings for the journal are the same."""
    search = TopologyEvolution(CLUSTERS, max_networks=6)
    while (proposal := search.ask()) is not None:
        search.tell(proposal.index, 0.5)
    more = TopologyEvolution(CLUSTERS, max_networks=8, trials=search.trials)
    assert search.done
    assert not more.done
    assert more.settings == search.settings
    assert asked(more).index == 6


def test_trials_of_another_search_are_refused() -> None:
    """A topology that is not of its cluster, one proposed before, and a gap in the numbers are each named."""
    with pytest.raises(ValueError, match=r"trial 0: \(0, 2, 0\) is not in cluster 1 of the space"):
        TopologyEvolution(CLUSTERS, trials=[Trial(Proposal(0, (0, 2, 0), "initial", 1))])
    with pytest.raises(ValueError, match="is not in cluster None of the space"):
        TopologyEvolution(CLUSTERS, trials=[Trial(Proposal(0, CELLS[0], "initial"))])
    twice = [Trial(Proposal(index, CELLS[0], "initial", 0)) for index in range(2)]
    with pytest.raises(ValueError, match=r"trial 1: .* was proposed before"):
        TopologyEvolution(CLUSTERS, trials=twice)
    with pytest.raises(ValueError, match="trial 0 is missing"):
        TopologyEvolution(CLUSTERS, trials=twice[1:])


def test_settings_are_checked() -> None:
    """Numbers out of range, empty clusters and repeated topologies are refused in one line."""
    with pytest.raises(ValueError, match=r"max_networks is 5, but 3 clusters begin with 6 networks"):
        TopologyEvolution(CLUSTERS, max_networks=5)
    with pytest.raises(ValueError, match=r"explore_prob is 1\.5, allowed is 0 to 1"):
        TopologyEvolution(CLUSTERS, explore_prob=1.5)
    with pytest.raises(ValueError, match="num_initial_per_cluster is 0"):
        TopologyEvolution(CLUSTERS, num_initial_per_cluster=0)
    with pytest.raises(ValueError, match="a topology in every cluster"):
        TopologyEvolution([CELLS[:2], []])
    with pytest.raises(ValueError, match="is given twice"):
        TopologyEvolution([CELLS[:2], CELLS[1:3]])


def test_lists_go_through_in_order_once() -> None:
    """The grid of widths and the drawn operations use the same protocol: each candidate once, the best one wins."""
    widths = CandidateList(WIDTH_MULTIPLIERS)
    table_4 = (80.05, 80.79, 81.30, 81.96, 82.19, 81.21, 81.42, 82.46)  # C2FNAS, table 4, hippocampus
    proposals = [widths.ask() for _ in table_4]
    assert [p and p.candidate for p in proposals] == [0.25 * step for step in range(1, 9)]
    assert widths.ask() is None
    for index in reversed(range(8)):
        assert not widths.done
        widths.tell(index, table_4[index])
    assert widths.done
    assert widths.best is not None
    assert widths.best.proposal.candidate == 2.0
    candidates = draw_candidates(0, 5, 12)
    assert [CandidateList(candidates).propose(widths.trials[:i]).candidate for i in range(5)] == list(candidates)  # type: ignore[union-attr]


def test_lists_refuse_what_is_not_theirs() -> None:
    """Equal or no candidates, widths of 0, and trials of another list are refused."""
    with pytest.raises(ValueError, match=r"candidate 0\.5 is given twice"):
        CandidateList([0.5, 1, 0.5])
    with pytest.raises(ValueError, match="there are no candidates"):
        CandidateList([])
    for width in (0, -1, math.nan, math.inf):
        with pytest.raises(ValueError, match="must be above 0"):
            CandidateList([width])
    with pytest.raises(ValueError, match=r"trial 0: 0\.75 is not the candidate at this place"):
        CandidateList([0.5], [Trial(Proposal(0, 0.75, "listed"))])
    assert CandidateList([0.5]).settings != CandidateList([0.75]).settings
