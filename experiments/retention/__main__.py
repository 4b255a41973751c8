"""Command line of the study of long-range memory, python -m experiments.retention."""

from experiments.lab.launch import driver
from experiments.retention.study import STUDY

if __name__ == '__main__':
  driver.main(STUDY)
