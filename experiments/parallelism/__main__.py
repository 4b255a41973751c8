"""Command line of the parallelism study, python -m experiments.parallelism."""

from experiments.lab.launch import driver
from experiments.parallelism.study import STUDY

if __name__ == '__main__':
  driver.main(STUDY)
