"""Checks that an episode is a function of its key and the actions alone."""

from __future__ import annotations

import copy
import random

import numpy as np

from .api import Needs, Snapshot
from .checker_bench import LENGTH, WITHOUT_IMAGES, Bench, Take, broken, sample_steps, start_of
from .generators import seeded_generators, using_generators

_WHY = "the score then depends on what ran before, on the number of workers and on the order of episodes"


def an_episode_played_twice_in_a_row_is_the_same(bench: Bench) -> None:
    """The same episode twice in a row gives the same states and images."""
    episode, reference = bench.ended()
    difference = bench.play(episode).difference(reference)
    if difference:
        do = "rebuild everything that begin() sets also where the task or the episode is the one before; sample from rng alone"
        broken("equal digests in both runs", difference, _WHY, do)


def a_warm_env_repeats_a_fresh_one(bench: Bench) -> None:
    """An episode after another one equals the same episode as the first of a new env."""
    reference = bench.reference
    env = bench.make_env()
    try:
        difference = bench.play(bench.first, env=env).difference(reference)
    finally:
        env.close()
    if difference:
        do = "reset what survives an episode: caches, warm starts of the solver, counters; where none is found, rebuild it all"
        broken("equal digests in a new env and in a used one", difference, _WHY, do)


def an_episode_cut_off_midway_leaves_nothing(bench: Bench) -> None:
    """An episode after one that was cut off equals the same episode after a whole one."""
    cut_off, _ = bench.due()
    bench.open(cut_off)
    bench.env.step_chunk(bench.chunks(1)[0])
    episode, reference = (bench.other, bench.other_reference) if cut_off is bench.first else (bench.first, bench.reference)
    difference = bench.play(episode).difference(reference)
    if difference:
        do = "put in begin() what is now cleared at the end of an episode; after a crash or an early stop no end comes"
        broken("equal digests after a whole episode and after a broken one", difference, _WHY, do)


def outside_generators_have_no_influence(bench: Bench) -> None:
    """An episode is the same whatever state the process-wide generators are in."""
    episode, reference = bench.due()
    with using_generators(seeded_generators(20)):
        difference = bench.play(episode).difference(reference)
    if difference:
        do = "sample from rng; where the simulator uses random or numpy.random itself, let it do so in begin() and apply() only"
        broken("equal digests when random and numpy.random were disturbed before the reset", difference, _WHY, do)


def outside_generators_are_left_untouched(bench: Bench) -> None:
    """An episode leaves the process-wide generators as they were."""
    episode, _ = bench.due()
    with using_generators(seeded_generators(21)):
        before = _generator_states()
        bench.play(episode, Needs(privileged=True))
        after = _generator_states()
    moved = [name for name, state in after.items() if state != before[name]]
    if moved:
        why = "two envs of one process, or an env and a trainer, then change what the other samples"
        do = "sample from the rng that begin() gets, also in render_view(), state() and metrics()"
        broken("random and numpy.random in the state they were in", f"{' and '.join(moved)} moved", why, do)


def _generator_states() -> dict[str, str]:
    name, keys, *counters = np.random.get_state()
    return {"random": repr(random.getstate()), "numpy.random": f"{name} {np.asarray(keys).tolist()} {counters}"}


def envs_of_one_process_are_independent(bench: Bench) -> None:
    """Two envs played in turns give what each gives alone."""
    references = (bench.reference, bench.other_reference)
    sibling = bench.env.sibling()
    bench.siblings.append(sibling)
    bench.settle(bench.first)
    bench.play(bench.first, WITHOUT_IMAGES, env=sibling)
    takes = bench.play_in_turns(sibling)
    for env, take, reference in zip(("the env", "its sibling"), takes, references):
        difference = take.difference(reference)
        if difference:
            why = "with more envs in a process the score changes, without an error"
            do = "keep what an episode changes on the instance, not on the class or the module; share only what is read"
            broken("equal digests in turns and alone", f"{env}: {difference}", why, do)


def different_initial_states_differ(bench: Bench) -> None:
    """Episodes of a task with different initial states begin in different states."""
    digests: dict[tuple[str, str, str], str] = {}
    played = {start_of(take): shown for take, shown in ((bench.first, bench.reference), (bench.other, bench.other_reference))}
    for episode in bench.episodes[:4]:
        take = played.get(start_of(episode))
        digest = (take.shown[0] if take else bench.open(episode, WITHOUT_IMAGES)).state_digest
        name = "/".join(map(str, start_of(episode)))
        twin = digests.setdefault((episode.task, episode.variant, digest), name)
        if twin != name:
            why = "a hundred episodes of one initial state are one measurement, and its interval is far too narrow"
            do = "use episode.initial_state in begin(), and put what was placed into simulator_state()"
            broken(f"{twin} and {name} differ after the reset", "equal state digests", why, do)


def the_digest_sees_what_actions_do(bench: Bench) -> None:
    """Other actions give another state digest."""
    episode, reference = bench.due()
    other = sample_steps(bench.env.embodiment, np.random.default_rng(1), LENGTH)
    take = bench.play(episode, WITHOUT_IMAGES, actions=other)
    if take.shown[-1].state_digest == reference.shown[-1].state_digest:
        why = "every comparison of runs rests on the digest; one that sees nothing calls any two runs equal"
        do = "return all that decides the future from simulator_state(): positions, velocities, generators in use"
        broken("another digest after other actions", "the same state digest", why, do)


def rendering_does_not_change_the_future(bench: Bench) -> None:
    """The states are the same with no frame, with a few, with one after every step, and where frames are described."""
    unseen, reference, _ = bench.without_images
    takes = {"no frames": (unseen, reference), "a described frame a step": (bench.stepwise, bench.reference)}
    for frames, (take, reference) in takes.items():
        difference = reference.difference(take, images=False)
        if difference:
            why = "an episode that is filmed, or played by a policy that reads images, is then another episode"
            do = "let render_view() and describe() only read the simulator: no step, no forward pass that moves a solver, no sampling"
            broken(f"equal state digests with two frames and with {frames}", difference, why, do)
    for shown in bench.reference.shown:
        described = next((each for each in bench.stepwise.shown if each.step == shown.step), shown)
        for view, images in shown.frames.views.items():
            if not np.array_equal(images[-1], described.frames.views[view][-1]):
                why = "labels of images are then of images that no policy gets"
                do = "leave the renderer in describe() as it was: flags, visibilities, colours"
                broken(f"the same {view} at step {shown.step} where each frame before is described", "another", why, do)


def shown_arrays_are_never_changed_later(bench: Bench) -> None:
    """What was shown stays as it was while the episode goes on."""
    episode, _ = bench.due()
    first = bench.open(episode, Needs(privileged=True))
    live = {"state": first.state, **first.frames.views, **first.privileged}
    kept = copy.deepcopy(live)
    bench.complete(Take([first]), episode)
    changed = [name for name, array in live.items() if not np.array_equal(array, kept[name], equal_nan=array.dtype.kind == "f")]
    filmed = bench.take(bench.first, Needs(every_frame=True), chunk=LENGTH)
    changed += [view for view in filmed.shown[0].frames.views if not _same_film(bench, filmed.shown[1:], view)]
    if changed:
        why = "records and training data written a step later hold another step's numbers"
        do = "return a copy from state(), render_view() and privileged(), not the simulator's own buffer"
        broken("arrays that keep their values", f"{', '.join(dict.fromkeys(changed))} changed after being returned", why, do)


def _same_film(bench: Bench, filmed: list[Snapshot], view: str) -> bool:
    """Whether frames taken within one chunk equal those that were taken after each step."""
    film = np.concatenate([snapshot.frames.views[view] for snapshot in filmed])
    single = np.concatenate([snapshot.frames.views[view] for snapshot in bench.stepwise.shown[1:]])
    return np.array_equal(film, single)
