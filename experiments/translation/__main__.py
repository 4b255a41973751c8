"""Command line of the study of translation, python -m experiments.translation."""

from experiments.lab.launch import driver
from experiments.translation.study import STUDY

if __name__ == '__main__':
  driver.main(STUDY)
