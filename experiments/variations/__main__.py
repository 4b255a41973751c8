"""Command line of the study of variations of the Transformer, python -m experiments.variations."""

from experiments.lab.launch import driver
from experiments.variations.study import STUDY

if __name__ == '__main__':
  driver.main(STUDY)
