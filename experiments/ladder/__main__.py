"""The command: python -m experiments.ladder."""

from experiments.lab.launch import driver
from experiments.ladder.study import STUDY

if __name__ == '__main__':
  driver.main(STUDY)
