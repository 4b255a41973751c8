"""The command `python -m experiments.complexity`."""

from experiments.complexity.study import STUDY
from experiments.lab.launch import driver

if __name__ == '__main__':
  driver.main(STUDY)
