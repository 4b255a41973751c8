"""Command line of the study of recurrent layers and attention, python -m experiments.ladder."""

from experiments.lab.launch import driver
from experiments.ladder.study import STUDY

if __name__ == '__main__':
  driver.main(STUDY)
