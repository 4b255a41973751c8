"""Command line of the study of pronoun resolution, python -m experiments.pronouns."""

from experiments.lab.launch import driver
from experiments.pronouns.study import STUDY

if __name__ == '__main__':
  driver.main(STUDY)
