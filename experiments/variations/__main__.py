"""The command: python -m experiments.variations."""

from experiments.lab.launch import driver
from experiments.variations.study import STUDY

if __name__ == '__main__':
  driver.main(STUDY)
