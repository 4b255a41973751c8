"""The command: python -m experiments.compile_tpu."""

from experiments.compile_tpu import topologies

topologies.prepare()

from experiments.compile_tpu.study import STUDY  # noqa: E402
from experiments.lab.launch import driver  # noqa: E402

if __name__ == '__main__':
  driver.main(STUDY)
