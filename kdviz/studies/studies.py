"""Train and measure a study. What is finished is seen without torch; `work` is imported to do the rest."""

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kdviz.errors import StoreError
from kdviz.files import list_differences
from kdviz.store import Run, open_run
from kdviz.studies.answers import refuse_spans
from kdviz.studies.engines import Workers, read_workers
from kdviz.studies.plans import STUDY_FILE
from kdviz.studies.tasks import Layout, Task, is_trained

if TYPE_CHECKING:
    from kdviz.measuring import Estimate
    from kdviz.studies.running import Watch


@dataclass(frozen=True)
class Study(Layout):
    """One folder with a plan, its networks and its run.

    Attributes
    ----------
    folder
        Where everything lies.
    plan
        What is compared.
    progress
        Show progress bars.
    device
        Where to train and measure this time; that of the plan if None.
    others
        Folders of studies of which networks that were trained alike are taken over instead of trained again.
    watch
        Called with a task whenever something of it is done.
    """

    watch: "Watch | None" = None

    def train(self, workers: Workers | None = None) -> None:
        """Train what is not trained yet: teacher, baselines, students; then their accuracy over training.

        Parameters
        ----------
        workers
            Who does it, as :func:`kdviz.studies.engines.engine_of` takes it; this process if None.

        Raises
        ------
        StoreError
            If the folder holds another study, or another process works on it.
        DataError
            If samples cannot be read.
        """
        if (self.folder / STUDY_FILE).exists():
            self.plan.save(self.folder)
            if self.run_path.is_dir():  # a plan that has grown: what is there already is not all
                open_run(self.run_path).expect(self.contents("measure", "repeat"))
        self._finish(self.tasks("train", "accuracy"), workers)

    def measure(self, workers: Workers | None = None) -> Run:
        """Measure every network at the plan's epochs, as far as that is not done yet.

        The final network of each seed is measured a second time with another measurement seed: how far
        its knowledge points move then is the noise floor of every metric. The held-out accuracy at every
        epoch is stored beside: that of a student without a head of its own is told by one trained on top of
        its frozen checkpoint.

        Parameters
        ----------
        workers
            As for `train`. This process alone writes into the run.

        Returns
        -------
        Run
            With groups ``teacher``, ``baseline-s0``, ``student-fc1-s0``, ... and ``...-repeat``.

        Raises
        ------
        StoreError
            If training is not finished, or the run was measured otherwise.
        """
        self._check_measurable()
        if self.run_path.is_dir():
            open_run(self.run_path).expect(self.contents("measure", "repeat"))
        self._finish(self.tasks("accuracy", "measure", "repeat"), workers)
        return open_run(self.run_path)

    def estimate(self) -> "dict[str, Estimate]":
        """Estimate what is left to measure, from a few passes of every network on this machine.

        Returns
        -------
        dict
            By name of the network, also of those measured a second time; without those that are whole.

        Raises
        ------
        StoreError
            As `measure`.
        """
        self._check_measurable()
        self._finish(self.tasks("accuracy"))  # of a training that was stopped just before
        from kdviz.studies.work import Workshop

        return Workshop(self).estimate(self.left(self.tasks("measure", "repeat")))

    def attribute(self) -> Run:
        """Draw the attribution maps of every network at the end of its training, as far as not done yet.

        The class explained is the label. Students without a head of their own are explained with the one that
        was trained on their frozen features: without it their logits mean nothing.

        Returns
        -------
        Run
            With results ``attribution/teacher``, ``attribution/baseline-s0``, ...

        Raises
        ------
        StoreError
            If training is not finished, or measuring not begun.
        ValueError
            If this is no study of images.
        MissingExtraError
            If captum is not installed.
        """
        modality = self.plan.data.modality
        if modality != "image":
            raise ValueError(
                f"attribution maps are drawn for images, {self.folder} is a study of {modality}s"
            )
        if not self.run_path.is_dir():
            raise StoreError(f"{self.folder} is not measured yet; first kdviz measure {self.folder}")
        open_run(self.run_path).expect(self.contents("attribute"))
        self._finish(self.tasks("attribute"))
        return open_run(self.run_path)

    def share(self, samples: int | None = None) -> Run:
        """Ask which properties of the teacher the networks share, as far as not asked yet.

        Parameters
        ----------
        samples
            So many held-out samples are asked about, or all there are; by default as many as before, at first
            1000. Answers about another number are replaced.

        Returns
        -------
        Run
            With results ``transfer/confidence``, ``transfer/consensus``, ...; see :mod:`kdviz.transfer`.

        Raises
        ------
        StoreError
            If training is not finished.
        ValueError
            If this is a study of answers in passages, which have no classes.
        MissingExtraError
            If torchvision is not installed.
        """
        refuse_spans(self.plan.data, "kdviz transfer")
        self._check_trained()
        from kdviz.studies.sharing import share
        from kdviz.studies.work import Workshop

        return share(Workshop(self), samples)

    def explain(self, samples: int | None = None) -> Run:
        """Map and score what every student has beside the baseline of its seed, as far as not done yet.

        Parameters
        ----------
        samples
            So many held-out samples are scored, or all there are; by default as many as before, at first 300.
            Scores of another number are replaced. The measured samples are mapped among them.

        Returns
        -------
        Run
            With results ``unicam/<student>`` (of images), ``unicam-scores/<student>``, at the end of
            training, and ``unicam-progress/<student>``, at some of its epochs; see :mod:`kdviz.unicam`. The
            teacher is the finished one at every epoch, as ``teacher_epoch`` says.

        Raises
        ------
        StoreError
            If training is not finished.
        ValueError
            If this is a study of answers in passages, which have no classes.
        """
        refuse_spans(self.plan.data, "kdviz unicam")
        self._check_trained()
        from kdviz.studies.explaining import explain
        from kdviz.studies.work import Workshop

        return explain(Workshop(self), samples)

    def check_coherency(self, samples: int = 4, pairs: int = 4) -> Run:
        """Ask which maps of every network survive rescaled weights that change no output, as far as not done.

        Parameters
        ----------
        samples
            So many of the measured images, from the first to the last.
        pairs
            So many pairs of layers of each network, each rescaled by 4 and by factors of its channels: first
            those around a layer that is looked at, the measured ones and that of the attribution maps; where
            there is none, a layer inside a pair is looked at, too.

        Returns
        -------
        Run
            With results ``coherency/teacher``, ``coherency/baseline-s0``, ...; see :mod:`kdviz.coherency`
            and :func:`kdviz.analysis.read_audits`. Integrated gradients and occlusion are left out: they are
            made of outputs alone, which stay the same.

        Raises
        ------
        StoreError
            If training is not finished.
        ValueError
            If this is no study of images, or `samples` or `pairs` is not 1 or more.
        MissingExtraError
            If captum is not installed.
        """
        self._check_trained()
        from kdviz.studies.auditing import check_coherency
        from kdviz.studies.work import Workshop

        return check_coherency(Workshop(self), samples, pairs)

    def _check_trained(self) -> None:
        for subject in self.subjects():
            for folder in self.training_folders(subject):
                if not is_trained(folder):
                    raise StoreError(f"no finished training run in {folder}; first kdviz train {self.folder}")

    def _check_measurable(self) -> None:
        """Refuse a study that is not trained to its end, or was measured otherwise."""
        self._check_trained()
        if self.run_path.is_dir():
            config = json.loads(str(open_run(self.run_path).attrs.get("config", "{}")))
            asked = json.loads(json.dumps(self.plan.identity))
            if differing := list_differences(config.get("study", {}), asked):
                raise StoreError(
                    f"{self.run_path} was measured with {'; '.join(differing)}; use another folder"
                )

    def left(self, tasks: list[Task]) -> list[Task]:
        """Return the tasks that are not done, by what lies on the disk."""
        run = open_run(self.run_path) if self.run_path.is_dir() else None
        return [task for task in tasks if not task.is_done(run)]

    def _finish(self, tasks: list[Task], workers: Workers | None = None) -> None:
        if workers is not None:
            read_workers(workers)  # refused even where nothing is left to do
        if missing := self.left(tasks):
            from kdviz.studies.running import finish

            finish(self, missing, workers, self.watch)
