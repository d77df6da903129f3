"""Models by name: cards, building, loading, predicting.

cards        read and look up the cards          (no torch)
configure    give a model its solver and adjoint
restore      rebuild a model from its folder
factory      create_model: a model by name
pretrained   load: a trained model by name, folder, run or hub repository
finetune     transfer: start from trained weights
predict      classify pictures
generate     continue a text
readme       the README of an exported folder
"""
