import argparse
import os
import signal
import threading

import pytest
import torch

from zoobot.runs import watch as watch_module
from zoobot.runs.watch import (
    EXIT_PREEMPTED,
    FIRST_SCALE,
    Interrupted,
    Preempted,
    Watch,
    check_steps_taken,
)
from zoobot.script import run_script
from zoobot.system.news import LostAnotherError

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


def test_a_signal_is_heard_while_a_gpu_works_and_a_step_without_end_is_given_up(monkeypatch):
    monkeypatch.setattr(watch_module, "LONGEST_STOP_S", 0.05)
    looks = []

    class Never:
        def query(self):
            looks.append(1)
            if len(looks) == 3:
                os.kill(os.getpid(), signal.SIGTERM)
            return False

    with Watch(CPU) as watch:
        watch._pending.append((torch.zeros(4, dtype=torch.bool), Never(), []))
        with pytest.raises(LostAnotherError, match="no end of the step"):
            watch.handle_flags(wait=True)
    assert len(looks) > 3


def test_a_step_that_ends_after_a_signal_is_waited_for():
    looks = []

    class Later:
        def query(self):
            looks.append(os.kill(os.getpid(), signal.SIGTERM) if not looks else None)
            return len(looks) > 5

    with Watch(CPU) as watch:
        watch._pending.append((torch.zeros(4, dtype=torch.bool), Later(), []))
        watch.handle_flags(wait=True)
        watch.reduce_flags()
        with pytest.raises(Preempted):
            watch.handle_flags()
    assert len(looks) == 6


def test_a_save_is_due_after_the_time_and_again_after_the_next():
    saved = []
    watch = Watch(CPU, save=lambda: saved.append(1) or True, save_every_s=0.0)
    for _ in range(3):
        watch.reduce_flags()
        watch.handle_flags()
    assert len(saved) == 3


def test_preemption_leaves_with_the_documented_code():
    assert Preempted().code == EXIT_PREEMPTED == 75


@pytest.mark.parametrize("saved", [True, False])
def test_whoever_is_stopped_is_told_whether_the_state_is_saved_and_how_to_go_on(saved, capsys):
    def stop(options):
        with Watch(CPU, save=lambda: saved) as watch:
            os.kill(os.getpid(), signal.SIGTERM)
            watch.reduce_flags()
            watch.handle_flags()

    with pytest.raises(SystemExit) as leaving:
        run_script(stop, lambda: argparse.Namespace(debug=False))
    assert leaving.value.code == EXIT_PREEMPTED
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    source = "is saved: the same command goes on from it"
    if not saved:
        source = "could not be saved: the same command goes on from what was saved before"
    assert told.startswith(f"stopped: the state {source} (after --resume never")


def test_signals_are_left_alone_outside_the_main_thread():
    before, seen = signal.getsignal(signal.SIGTERM), []

    def train():
        with Watch(CPU):
            seen.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=train)
    thread.start()
    thread.join()
    assert seen == [before]


def test_ctrl_c_ends_the_step_and_saves_and_a_second_one_stops_at_once():
    before, saved = signal.getsignal(signal.SIGINT), []

    def step(num_signals):
        with Watch(CPU, lambda: saved.append(1) or True) as watch:
            look(watch, 1.0, 2.0)
            for _ in range(num_signals):
                signal.raise_signal(signal.SIGINT)
            watch.reduce_flags()
            watch.handle_flags()

    with pytest.raises(Interrupted, match="state is saved"):
        step(1)
    assert saved == [1]
    with pytest.raises(KeyboardInterrupt) as stopped:
        step(2)
    assert stopped.type is KeyboardInterrupt
    assert saved == [1]
    assert signal.getsignal(signal.SIGINT) is before


def test_ctrl_c_after_the_last_step_is_not_forgotten():
    def end():
        with Watch(CPU):
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(Interrupted):
        end()


def test_a_ctrl_c_that_is_ignored_stays_ignored():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with Watch(CPU) as watch:
            signal.raise_signal(signal.SIGINT)
            watch.reduce_flags()
            watch.handle_flags()
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_overflows_count_once_the_scale_is_as_low_as_it_can_be():
    told = []
    watch = Watch(CPU, max_skipped=2, skipped=lambda *galaxies: told.append(galaxies))
    for scale in (4.0, 2.0, 1.0):
        look(watch, 1.0, 2.0)
        watch.reduce_flags(torch.tensor(float("inf")), torch.tensor(scale))
        watch.handle_flags()
    assert len(told) == 1
    look(watch, 1.0, 2.0)
    watch.reduce_flags(torch.tensor(float("nan")), torch.tensor(0.5))
    with pytest.raises(ValueError, match="2 steps in a row"):
        watch.handle_flags()


def test_a_run_in_which_every_gradient_overflowed_has_learned_nothing():
    for num_overflows, num_steps in ((3, 3), (2, 3), (0, 3), (0, 0)):
        scaler = torch.amp.GradScaler("cpu", FIRST_SCALE * 0.5**num_overflows)
        scaler.scale(torch.ones(()))  # makes its scale
        if num_overflows == num_steps > 0:
            with pytest.raises(ValueError, match="none of the 3 steps was taken"):
                check_steps_taken(scaler, num_steps)
        else:
            check_steps_taken(scaler, num_steps)
    check_steps_taken(torch.amp.GradScaler("cpu", enabled=False), 3)
