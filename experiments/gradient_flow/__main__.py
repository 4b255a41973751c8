"""Command line of the study of gradient norms, python -m experiments.gradient_flow."""

from experiments.gradient_flow.study import STUDY
from experiments.lab.launch import driver

if __name__ == '__main__':
  driver.main(STUDY)
