"""Command line of the study of receptive fields, python -m experiments.receptive_field."""

from experiments.lab.launch import driver
from experiments.receptive_field.study import STUDY

if __name__ == '__main__':
  driver.main(STUDY)
