"""Command line of the study of state tracking, python -m experiments.state_tracking."""

from experiments.lab.launch import driver
from experiments.state_tracking.study import STUDY

if __name__ == '__main__':
  driver.main(STUDY)
