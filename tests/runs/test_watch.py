import os
import signal
import threading

import pytest
import torch

from zoobot.runs.watch import EXIT_PREEMPTED, Preempted, Watch

CPU = torch.device("cpu")


def look(watch, *values):
    return watch.record_losses({"id_str": ["a", "b"]}, torch.tensor(values)[:, None])


def test_a_step_is_sound_if_all_losses_and_the_gradient_are_finite():
    watch = Watch(CPU)
    assert look(watch, 1.0, 2.0).tolist() == [True, True]
    assert watch.reduce_flags(torch.tensor(3.0)) == 0
    assert look(watch, 1.0, float("inf")).tolist() == [True, False]
    assert watch.reduce_flags(torch.tensor(3.0)) == 1
    look(watch, 1.0, 2.0)
    assert watch.reduce_flags(torch.tensor(float("nan"))) == 1
    look(watch, 1.0, 2.0)
    assert watch.reduce_flags(None) == 0


def test_a_sound_step_ends_a_row_of_skipped_ones():
    told = []
    watch = Watch(CPU, max_skipped=3, skipped=lambda *galaxies: told.append(galaxies))
    for value in (1.0, float("nan"), float("nan"), 1.0, float("nan"), float("nan")):
        look(watch, 0.0, value)
        watch.reduce_flags()
        watch.handle_flags()
    assert told == [(["a", "b"], ["b"], 0)] * 4
    look(watch, 0.0, float("nan"))
    watch.reduce_flags()
    with pytest.raises(ValueError, match="3 steps in a row"):
        watch.handle_flags()


def test_flags_of_a_gpu_are_read_two_steps_later_and_all_of_them_before_stopping():
    told, saved = [], []
    watch = Watch(
        CPU,
        save=lambda: saved.append(1) or True,
        skipped=lambda ids, bad, steps_ago: told.append((bad, steps_ago)),
    )
    watch._steps_in_flight = 2
    with watch:
        for step, value in enumerate((float("nan"), 1.0, 1.0, 1.0, float("nan"))):
            look(watch, 0.0, value)
            if step == 3:
                os.kill(os.getpid(), signal.SIGUSR1)
            watch.reduce_flags()
            watch.handle_flags()
            assert told == ([] if step < 2 else [(["b"], 2)])
        look(watch, 0.0, 1.0)
        watch.reduce_flags()
        with pytest.raises(Preempted):
            watch.handle_flags()
    assert told == [(["b"], 2), (["b"], 1)]
    assert saved == [1]


def test_a_save_is_due_after_the_time_and_again_after_the_next():
    saved = []
    watch = Watch(CPU, save=lambda: saved.append(1) or True, save_every_s=0.0)
    for _ in range(3):
        watch.reduce_flags()
        watch.handle_flags()
    assert len(saved) == 3


def test_preemption_leaves_with_the_documented_code():
    assert Preempted().code == EXIT_PREEMPTED == 75


def test_signals_are_left_alone_outside_the_main_thread():
    before, seen = signal.getsignal(signal.SIGTERM), []

    def train():
        with Watch(CPU):
            seen.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=train)
    thread.start()
    thread.join()
    assert seen == [before]
