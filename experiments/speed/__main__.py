"""Command line of the speed study, python -m experiments.speed."""

from experiments.lab.launch import driver
from experiments.speed.study import STUDY

if __name__ == '__main__':
  driver.main(STUDY)
