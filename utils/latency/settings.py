"""Settings of a measurement, as plain values: the tool, and how carefully it measures."""

from dataclasses import dataclass, replace
from typing import Optional

from utils.latency.benchmark_tool import BinaryRunner, find_binary
from utils.latency.own_process import OwnProcess
from utils.latency.runners import Runner
from utils.latency.timing import Care

# Few networks judge a table, so each gets more passes and a longer wait for a quiet machine.
PASSES, PATIENCE_S = 2, 30.0
JUDGING_PASSES, JUDGING_PATIENCE_S, MODEL_PATIENCE_S = 4, 240.0, 60.0
# further visits of an entry that has not settled: in a whole table, and where there are few things to time
FURTHER_VISITS, FURTHER_VISITS_OF_FEW = 2, 6


@dataclass(frozen=True)
class Tool:
    """The tool that times models."""

    binary: Optional[str]  # benchmark_model: a path, or a command on PATH; None: LiteRT, in a process of its own
    num_threads: Optional[int]  # None: as many as the table was measured with
    timeout_s: float  # seconds that the binary may take for one file

    def runner(self, threads_of_table: int = 1) -> Runner:
        """The runner, on the table's threads unless others are asked for. Raises UserError if the binary is missing."""
        threads = self.num_threads or threads_of_table
        if self.binary:
            return BinaryRunner(find_binary(self.binary), threads, self.timeout_s)
        return OwnProcess(threads)


@dataclass(frozen=True)
class Pace:
    """How carefully to measure; None: the default of what is measured."""

    num_measures: int  # least number of timed runs of every item, over all passes
    num_passes: Optional[int]
    spread: float
    drift: float
    patience_s: Optional[float]
    max_temp_c: Optional[float]  # None: no limit
    seed: int

    def of_table(self, *, few: bool) -> Care:
        """The care for entries of a table. few: whether there are few entries to time, as in a sample."""
        return self._care(PASSES, few=few, patience_s=PATIENCE_S)

    def of_networks(self, patience_s: float) -> Care:
        """The care for whole networks. patience_s: the default, in seconds."""
        care = self._care(JUDGING_PASSES, few=True, patience_s=patience_s)
        return replace(care, short_wait_s=care.patience_s)

    def _care(self, passes: int, *, few: bool, patience_s: float) -> Care:
        passes = self.num_passes or passes
        further = FURTHER_VISITS_OF_FEW if few else FURTHER_VISITS
        return Care(passes=passes, runs=-(-self.num_measures // passes), max_visits=passes + further,
                    spread=self.spread, drift=self.drift, max_temp_c=self.max_temp_c,
                    patience_s=patience_s if self.patience_s is None else self.patience_s, seed=self.seed)
