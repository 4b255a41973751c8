"""Command line of the study of TPU compilation, python -m experiments.compile_tpu."""

from experiments.compile_tpu import topologies

topologies.configure_jax_and_libtpu()

from experiments.compile_tpu.study import STUDY  # noqa: E402
from experiments.lab.launch import driver  # noqa: E402

if __name__ == '__main__':
  driver.main(STUDY)
